"""The series store: raw samples, GPU-minute parts and masks of what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from pipeline.series.port import SeriesStore

_WRITE = (
    "write duckdb:///path/to/file.duckdb or influxdb://host:port?org=NAME (influxdbs:// for TLS)"
)
_INFLUX_OPTIONS = {"org", "prefix"}


def open_series(
    url: str, *, token: str | None = None, prefix: str | None = None, **options: Any
) -> SeriesStore:
    """The store that a setting names; not started yet.

    `prefix` names buckets of one's own (self-tests), before the URL's
    `prefix=`.  Options go to the store's class.  Raises ValueError that says
    what to write instead.
    """
    parts = urlsplit(url)
    if parts.scheme == "duckdb":
        if parts.netloc or len(parts.path) < 2 or parts.query:
            raise ValueError(f"not a series store: {url!r}; {_WRITE}")
        from pipeline.series.duck import DuckStore  # noqa: PLC0415 - only what is used is loaded

        return DuckStore(Path(unquote(parts.path)), **options)
    if parts.scheme in {"influxdb", "influxdbs"}:
        return _influx(url, token, prefix, options)
    raise ValueError(f"not a series store: {url!r}; {_WRITE}")


def _influx(
    url: str, token: str | None, prefix: str | None, options: dict[str, Any]
) -> SeriesStore:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    unknown = sorted(query.keys() - _INFLUX_OPTIONS)
    if unknown:
        raise ValueError(f"{unknown[0]!r} in {parts.scheme}://… is not known; {_WRITE}")
    if parts.username or parts.password:
        raise ValueError("an InfluxDB token does not belong in the URL; set it by itself")
    if not parts.hostname or not query.get("org"):
        raise ValueError(f"host and org are missing in {url!r}; {_WRITE}")
    if not token:
        raise ValueError("InfluxDB needs a token: set one that may create, read and write buckets")
    from pipeline.series.influx import InfluxStore  # noqa: PLC0415 - only what is used is loaded

    scheme = "https" if parts.scheme == "influxdbs" else "http"
    chosen = prefix or query.get("prefix") or "petawatch"
    address = f"{scheme}://{parts.netloc}"
    return InfluxStore(address, token, query["org"], prefix=chosen, **options)
