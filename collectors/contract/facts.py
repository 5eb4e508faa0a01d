"""What a node says of itself now and then: records of the compacted topic `telemetry.facts`.

Facts are what does not change from second to second: versions, limits, how
FLOP are measured, and which signals cannot be had and why.
"""

from __future__ import annotations

import msgspec


class GpuFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one slot; absent is None or missing, never 0."""

    slot: str
    uuid: str = ""
    model: str = ""
    serial: str = ""
    number: int | None = None
    """The number that schedulers and `/dev/nvidiaN` use."""
    parent: str = ""
    """The GPU's slot, for a MIG instance."""
    profile: str = ""
    """`1g.10gb`, for a MIG instance."""
    sm_count: int | None = None
    limits: dict[str, float] = {}
    """By name with its unit: `slowdown_margin_c`, `shutdown_temperature_c`, `max_sm_clock_mhz`,
    `default_power_limit_w`, …"""
    flop_method: str = "none"
    flop_reason: str = ""
    """Why it is not a better method."""
    unsupported: dict[str, str] = {}
    """Metric (or `processes`, `events`) → why this GPU does not give it."""
    state: str = "ok"
    """`ok`, `lost`, `hung`, `needs_reset` or `released`."""


class NodeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one node; keyed by its name, the last one counts."""

    node: str
    time_us: int
    origin: str
    version: str
    """Of Petawatch."""
    source: str
    """The backend: `nvml`, `sim`, `scrape`."""
    driver: str = ""
    interval_s: float = 1.0
    gpus: tuple[GpuFacts, ...] = ()
    missing: dict[str, str] = {}
    """What the whole node does not give (`events`, `kernel_log`, `kubernetes`, …) → why."""
    spooled: int = 0
    """Records that wait on the node's disk."""
    dropped: int = 0
    """Records that its bounds have removed since the spool's file was made."""

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return self.node.encode()
