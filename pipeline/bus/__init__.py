"""The pipeline's way to a bus: by URL, whichever adapter that names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from collectors.contract.bus import Bus
from collectors.kit.clock import Clock
from collectors.kit.sqlite_log import SqliteBus

_HELP = "write sqlite:///PATH (an absolute path has four slashes) or kafka://HOST:PORT[,HOST:PORT]"


def open_bus(url: str, clock: Clock) -> Bus:
    """The bus behind a URL, not connected yet.  Raises ValueError that says what to write.

    The Kafka client is imported only where a URL names it.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError(f"bus {url!r}: options are not known; {_HELP}")
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        return SqliteBus(Path(parts.path[1:]), clock=clock)
    if parts.scheme == "kafka" and not parts.path.strip("/"):
        from pipeline.bus.kafka import KafkaBus  # noqa: PLC0415

        return KafkaBus(_brokers(url, parts.netloc), clock=clock)
    raise ValueError(f"bus {url!r}: {_HELP}")


def _brokers(url: str, netloc: str) -> str:
    for broker in netloc.split(","):
        host, _, port = broker.rpartition(":")
        if not host or "@" in host or not port.isdecimal() or int(port) not in range(1, 65536):
            raise ValueError(f"bus {url!r}: {broker!r} is no HOST:PORT; {_HELP}")
    return netloc
