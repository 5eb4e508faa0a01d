"""The node agent's settings; the one list of them.

`load` of collectors.kit.config fills it from /etc/petawatch/agent.toml, the
environment (PETAWATCH_AGENT_…) and options; docs/settings.md is made from it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from collectors.kit.config import AGENT_PREFIX, BadValueError, SettingsStruct, setting

_BUSES = ("kafka://", "sqlite://")


class NodeSettings(SettingsStruct, frozen=True, kw_only=True):
    """All settings of `petawatch agent`.  Raises BadValueError for a value that cannot be."""

    prefix: ClassVar[str] = AGENT_PREFIX
    file: ClassVar[str] = "/etc/petawatch/agent.toml"

    node: Annotated[str | None, setting("The node's name; none: the host's.")] = None
    bus: Annotated[
        str | None, setting("Where records go: `kafka://HOST:PORT[,…]` or `sqlite:///FILE`.")
    ] = None
    topic_prefix: Annotated[str, setting("Stands before every topic's name.")] = ""
    backend: Annotated[
        str, setting("What reads the GPUs: `nvml`, or `sim` for one simulated node.")
    ] = "nvml"
    interval_s: Annotated[float, setting("Seconds between readings.", ge=0.1, le=60)] = 1.0
    rescan_s: Annotated[
        float, setting("Seconds between searches for GPUs that came, went or came back.",
                       ge=1, le=3_600),
    ] = 60.0  # fmt: skip
    processes_s: Annotated[
        float, setting("Seconds between questions for processes and who they are.", ge=1, le=600)
    ] = 10.0
    facts_s: Annotated[
        float, setting("Seconds between facts, which also go out whenever they change.",
                       ge=10, le=86_400),
    ] = 600.0  # fmt: skip
    wait_for_driver: Annotated[
        bool | None,
        setting("Whether to stay and try again where there is no driver; none: unless a person "
                "sits at the terminal."),
    ] = None  # fmt: skip
    retry_s: Annotated[
        float, setting("Longest wait between two attempts to open the driver.", ge=1, le=3_600)
    ] = 60.0
    release_s: Annotated[
        float, setting("Seconds after which a driver let go by SIGUSR1 is taken back by itself.",
                       ge=1, le=86_400),
    ] = 900.0  # fmt: skip
    active_gpu_utilization: Annotated[
        float, setting("GPU utilisation from which a GPU counts as active.", ge=0, le=1)
    ] = 0.05
    active_sm_activity: Annotated[
        float, setting("SM activity from which it does, where utilisation is absent.", ge=0, le=1)
    ] = 0.01
    spool: Annotated[
        Path | None,
        setting("File that keeps what the bus cannot take; none: `spool-NODE.sqlite` in the state "
                "folder."),
    ] = None  # fmt: skip
    spool_mb: Annotated[
        int,
        setting("MiB that it may take; then the oldest go, and are counted.", ge=1, le=1_000_000),
    ] = 512
    spool_rate: Annotated[
        float, setting("Records a second sent from it once the bus is back.", ge=1, le=1_000_000)
    ] = 20.0
    metrics_host: Annotated[
        str, setting("Address of the agent's own `/metrics`; it has no login.")
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int, setting("Port of the agent's own `/metrics`; 0 for none.", ge=0, le=65_535)
    ] = 9464
    events: Annotated[bool, setting("Whether to listen to what the driver reports by itself.")] = (
        True
    )
    kernel_log: Annotated[bool, setting("Whether to read the kernel's log for GPU faults.")] = True
    kernel_log_path: Annotated[
        Path, setting("The kernel's log: the device, or a text file that is followed.")
    ] = Path("/dev/kmsg")
    attribution: Annotated[bool, setting("Whether to find out who is on the GPUs.")] = True
    proc: Annotated[Path, setting("The host's `/proc`, for cgroups of processes.")] = Path("/proc")
    cgroups: Annotated[Path, setting("The host's cgroups: which pods and jobs are alive.")] = Path(
        "/sys/fs/cgroup"
    )
    pod_logs: Annotated[
        Path, setting("The kubelet's folder of pod logs, whose names join pods and their cgroups.")
    ] = Path("/var/log/pods")
    pod_resources: Annotated[
        Path, setting("The kubelet's pod-resources socket.")
    ] = Path("/var/lib/kubelet/pod-resources/kubelet.sock")  # fmt: skip
    job_mappings: Annotated[
        tuple[Path, ...], setting("Folders in which a scheduler's prolog writes who has which GPU.")
    ] = (Path("/run/petawatch/jobs"),)
    dcgm_exporter: Annotated[
        str | None,
        setting("`http://…/metrics` of a DCGM exporter on this node, for FLOP of GPUs before "
                "Hopper."),
    ] = None  # fmt: skip
    scrape: Annotated[
        tuple[str, ...], setting("Exporters to read instead of this node's GPUs: `http://…`.")
    ] = ()
    scrape_targets: Annotated[
        Path | None, setting("File of exporters to read instead of this node's GPUs.")
    ] = None
    scrape_interval_s: Annotated[
        float, setting("Seconds between two readings of an exporter.", ge=1, le=600)
    ] = 15.0

    def __post_init__(self) -> None:
        if self.bus is not None and not self.bus.startswith(_BUSES):
            raise BadValueError("bus", "write kafka://HOST:PORT[,HOST:PORT] or sqlite:///FILE")
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", self.topic_prefix):
            raise BadValueError("topic_prefix", "write letters, digits, '.', '_' and '-' only")
        if self.node is not None and not re.fullmatch(r"[^\s\x00-\x1f]{1,253}", self.node):
            raise BadValueError("node", "write a name without blanks")
        for key in ("dcgm_exporter", "scrape"):
            given: str | tuple[str, ...] | None = getattr(self, key)
            for url in (given,) if isinstance(given, str) else given or ():
                _check_url(key, url)
        try:
            ipaddress.ip_address(self.metrics_host)
        except ValueError as error:
            raise BadValueError(
                "metrics_host", "write an IP address: 127.0.0.1, or 0.0.0.0 for all"
            ) from error

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node or socket.gethostname()

    @property
    def spool_path(self) -> Path:
        """`spool`, else a file in systemd's, the user's or the usual state folder."""
        if self.spool is not None:
            return self.spool
        given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        folder = Path(given) if given else Path(home).expanduser() / "petawatch"
        return folder / f"spool-{self.name}.sqlite"


def _check_url(key: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadValueError(key, "write http://HOST:PORT/metrics")
