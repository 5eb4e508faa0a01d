"""The pipeline's way to a bus: by URL, whichever adapter that names."""

from __future__ import annotations

from collectors.contract.bus import Bus
from collectors.kit.clock import Clock
from collectors.kit.sqlite_log import SqliteBus, path_of


def open_bus(url: str, clock: Clock, *, session_timeout_s: float = 10.0) -> Bus:
    """The bus behind a URL, not connected yet.  Raises ValueError that says what to write.

    `session_timeout_s` is when Kafka gives a silent member's partitions away.
    The Kafka client is imported only where a URL names it.
    """
    if url.startswith("sqlite:"):
        return SqliteBus(path_of(url), clock=clock)
    if url.startswith("kafka:"):
        from collectors.kit.kafka_producer import brokers_of  # noqa: PLC0415
        from pipeline.bus.kafka import KafkaBus  # noqa: PLC0415

        return KafkaBus(brokers_of(url), clock=clock, session_timeout_s=session_timeout_s)
    raise ValueError(f"bus {url!r}: write sqlite:///PATH or kafka://HOST:PORT[,HOST:PORT]")
