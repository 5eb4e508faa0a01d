"""How an agent reads, and what it has beside its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from collectors.agent.integrals import ActivityRule
from collectors.agent.occupants import Occupants
from collectors.contract.facts import NodeFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.record import SlotLabels

WindowOf = Callable[[SlotLabels, Mapping[str, float], int], FlopWindow | None]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How a node is read; times in seconds."""

    node: str
    interval_s: float = 1.0
    rescan_s: float = 60.0
    processes_s: float = 10.0
    facts_s: float = 600.0
    retry_s: float = 60.0
    release_s: float = 900.0
    stuck_s: float = 120.0
    """A driver that must be closed and has a call under way for so long ends the process."""
    share: float = 0.3
    """Share of the interval after which a device is left to its thread and the next is read."""
    budget: float = 0.9
    """Share of the interval at which the record is made of what has come."""
    ticks: int | None = None
    """Records after which it ends by itself; None for no end."""
    rule: ActivityRule = field(default_factory=ActivityRule)
    source: str = "nvml"
    """The backend's name, for facts."""
    listens: bool = True


@dataclass(slots=True)
class Around:
    """What an agent has beside its backend; all of it may be missing."""

    on_facts: Callable[[NodeFacts], object] | None = None
    on_tick: Callable[[], object] | None = None
    """Called when a tick has really happened."""
    occupants: Occupants | None = None
    window_of: WindowOf | None = None
    """Asked for FLOP where a device measures none: labels, values, monotonic µs."""
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """What the node does not give → why, where that is known from outside the loop."""
    spool: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """Records that wait on disk, and that were dropped."""
