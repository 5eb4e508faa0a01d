"""The settings of everything behind the bus; the one list of them.

`load` of collectors.kit.config fills it; docs/settings.md is made from it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from collectors.kit.config import BadValueError, SettingsStruct, setting

_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|::1")
_SCHEMES = {
    "bus": (("sqlite", "kafka"), "sqlite:///FILE or kafka://HOST:PORT[,HOST:PORT]"),
    "store": (("duckdb", "influxdb", "influxdbs"),
              "duckdb:///FILE or influxdb://HOST:PORT?org=NAME (influxdbs:// for TLS)"),
    "books": (("sqlite", "postgresql", "postgresql+psycopg"),
              "sqlite:///FILE or postgresql://USER@HOST/NAME"),
}  # fmt: skip


def default_data() -> Path:
    """`$XDG_DATA_HOME/petawatch`, else `~/.local/share/petawatch`."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "petawatch"


class Settings(SettingsStruct, frozen=True, kw_only=True):
    """All settings; `{data}` in the addresses is already replaced.

    Raises BadValueError for a value that cannot be.
    """

    data: Annotated[Path, setting("Folder of everything that the embedded parts keep.")] = (
        msgspec.field(default_factory=default_data)
    )
    bus: Annotated[
        str, setting("The log between the parts: `sqlite:///FILE` or `kafka://HOST:PORT[,…]`.")
    ] = "sqlite:///{data}/bus.db"
    store: Annotated[
        str, setting("The series store: `duckdb:///FILE` or `influxdb://HOST:PORT?org=NAME`.")
    ] = "duckdb:///{data}/series.duckdb"
    influx_token: Annotated[
        str | None, setting("InfluxDB's API token, with leave to make buckets.", secret=True)
    ] = None
    books: Annotated[
        str, setting("The ledger's database: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.")
    ] = "sqlite:///{data}/books.db"
    host: Annotated[str, setting("Address to listen on; beyond loopback a login is needed.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, setting("Port to listen on; 0 takes a free one.", ge=0, le=65_535)] = 8080
    require_login: Annotated[
        bool, setting("Whether loopback needs a login too: for a proxy on this machine.")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...], setting("Names by which browsers may ask for us through a proxy.")
    ] = ()
    site: Annotated[
        str | None, setting("`site.toml` of the centre, or the name of a simulated site.")
    ] = None
    tenants: Annotated[
        Path | None, setting("The tenants file: who is who by account, namespace and user.")
    ] = None
    password_hash: Annotated[
        str | None, setting("Argon2 hash of the operators' password.", secret=True)
    ] = None
    api_token: Annotated[str | None, setting("Bearer token that programs show.", secret=True)] = (
        None
    )
    api_token_hash: Annotated[
        str | None, setting("SHA-256 of the bearer token, in hex, in its stead.", secret=True)
    ] = None
    flush_s: Annotated[
        float, setting("Seconds between two writes of the store role.", ge=0.1, le=300)
    ] = 10.0
    raw_interval_s: Annotated[
        float | None,
        setting("Seconds between raw samples kept of a GPU; none: 1 up to 1,000 GPUs, 10 above.",
                ge=0, le=3_600),
    ] = None  # fmt: skip
    lateness_s: Annotated[
        float, setting("How late a sample may be before its hour is final.", ge=0, le=86_400)
    ] = 900.0
    books_interval_s: Annotated[
        float, setting("Seconds between two computations of the hour that goes on.", ge=1, le=3_600)
    ] = 60.0
    future_s: Annotated[
        float, setting("Samples further ahead of bus time are refused.", ge=1, le=3_600)
    ] = 60.0
    ancient_h: Annotated[
        float, setting("Samples older than this are refused.", ge=1, le=24 * 400)
    ] = 72.0
    gpu_partitions: Annotated[
        int, setting("Partitions of `telemetry.gpu`, made once.", ge=1, le=1_000)
    ] = 12
    bus_retention_h: Annotated[
        int, setting("Hours that the bus keeps GPU records.", ge=1, le=24 * 400)
    ] = 72
    bus_retention_mb: Annotated[
        int, setting("MiB that the bus keeps of `telemetry.gpu`, per partition.", ge=16)
    ] = 8_192
    raw_days: Annotated[
        float | None,
        setting("Days that raw samples are kept; none: 1 in DuckDB, 7 in InfluxDB.", ge=0.01),
    ] = None
    minutes_days: Annotated[float, setting("Days that GPU-minutes are kept.", ge=1)] = 90.0
    disk_budget_gb: Annotated[
        float, setting("GB that the embedded series store may take.", ge=0.1)
    ] = 20.0
    past_days: Annotated[
        float,
        setting("Days of past that `up` gives a simulated site's empty books; 0 none.", ge=0,
                le=400),
    ] = 31.0  # fmt: skip
    live_history_min: Annotated[
        float, setting("Minutes of live figures kept for the charts.", ge=1, le=120)
    ] = 15.0
    notify: Annotated[
        Path | None, setting("File of those who are told of incidents; see docs/notifications.md.")
    ] = None
    public_url: Annotated[
        str, setting("Where people find the pages, for links in messages: `https://HOST/…`.")
    ] = ""
    show_estimates: Annotated[
        bool, setting("Whether estimated FLOPS count in the headline where nothing is measured.")
    ] = False
    rules: Annotated[
        Path | None,
        setting("File of alert rules that change or add to the shipped ones; see docs/alerts.md."),
    ] = None
    topic_prefix: Annotated[
        str, setting("Put before every topic's name, and every consumer group's.")
    ] = ""
    kafka_session_timeout_s: Annotated[
        float, setting("Seconds after which Kafka gives a silent worker's share away.",
                       ge=0.5, le=300),
    ] = 10.0  # fmt: skip

    def __post_init__(self) -> None:
        data = self.data.expanduser().absolute()
        msgspec.structs.force_setattr(self, "data", data)
        for key, (schemes, example) in _SCHEMES.items():
            url: str = getattr(self, key)
            if url.partition("://")[0] not in schemes or "://" not in url:
                raise BadValueError(key, f"write {example}, not {_bare(url)!r}")
            msgspec.structs.force_setattr(self, key, url.replace("{data}", str(data)))
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", self.topic_prefix):
            raise BadValueError("topic_prefix", "write letters, digits, '.', '_' and '-' only")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the pages."""
        return _LOOPBACK.fullmatch(self.host) is not None

    @property
    def embedded(self) -> bool:
        """Whether the bus and the series store are files of this machine."""
        return self.bus.startswith("sqlite:") and self.store.startswith("duckdb:")

    def raw_interval_for(self, gpus: int) -> float:
        """Seconds between raw samples of a GPU on a site of that size; 0 or 1 keeps all at 1 Hz."""
        if self.raw_interval_s is not None:
            return self.raw_interval_s
        return 1.0 if gpus <= 1_000 else 10.0

    @property
    def raw_keep_days(self) -> float:
        """Days of raw samples: as set, else 1 in DuckDB and 7 in InfluxDB."""
        return self.raw_days or (1.0 if self.store.startswith("duckdb:") else 7.0)


def _bare(url: str) -> str:
    """An address without what may be a password."""
    return re.sub(r"//[^@/]*@", "//…@", url)
