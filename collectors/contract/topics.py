"""Topics and what their records hold, other than GPU records (see wire)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec

from collectors.contract.bus import TopicSpec

GPU, EVENTS, ALLOC, FACILITY, FACTS = (
    "telemetry.gpu",
    "telemetry.events",
    "telemetry.alloc",
    "telemetry.facility",
    "telemetry.facts",
)
DEAD = "telemetry.dead"
LIVE, ALERTS, CONTROL, FLUSHED, STATE = (
    "petawatch.live",
    "petawatch.alerts",
    "petawatch.control",
    "petawatch.flushed",
    "petawatch.state",
)

_HOUR, _MIB = 3600, 2**20


def topic_specs(
    prefix: str = "",
    *,
    gpu_partitions: int = 12,
    retention_h: int = 72,
    retention_bytes: int = 8 * 2**30,
) -> list[TopicSpec]:
    """All topics, each name behind `prefix` (self-tests have topics of their own)."""
    keep_s = retention_h * _HOUR
    specs = [
        TopicSpec(GPU, gpu_partitions, keep_s, retention_bytes),
        TopicSpec(EVENTS, 1, 30 * 24 * _HOUR, 512 * _MIB),
        TopicSpec(ALLOC, 1, 400 * 24 * _HOUR, 1024 * _MIB, compacted=True),
        TopicSpec(FACILITY, 1, keep_s, 512 * _MIB),
        TopicSpec(FACTS, 1, 400 * 24 * _HOUR, 256 * _MIB, compacted=True),
        TopicSpec(LIVE, 1, 1_200, 128 * _MIB),
        TopicSpec(ALERTS, 1, 400 * 24 * _HOUR, 512 * _MIB, compacted=True),
        TopicSpec(CONTROL, 1, 400 * 24 * _HOUR, 64 * _MIB, compacted=True),
        TopicSpec(FLUSHED, 1, keep_s, 256 * _MIB),
        TopicSpec(STATE, 1, 400 * 24 * _HOUR, 256 * _MIB, compacted=True),
        TopicSpec(DEAD, 1, keep_s, 512 * _MIB),
    ]
    return [dataclasses.replace(spec, name=prefix + spec.name) for spec in specs]


class Subject(msgspec.Struct, frozen=True):
    """Slots of one node; an empty `slots` means all that the inventory has there."""

    node: str
    slots: tuple[str, ...] = ()


PRECEDENCE = {"static": 0, "guess": 5, "process": 10, "scheduler": 20, "accounting": 25}
"""A scheduler's accounting goes before its word at the time, that before what processes show, that
before a guess of which GPU it was that a scheduler counted, and that before a static file."""


Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What 64 bits hold: databases take no more, and one such record would stop the books for good."""


class Allocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds which slots from when to when: a record of `telemetry.alloc`.

    Keyed by (source, id); a later record of the same key replaces the earlier
    one (an end becomes known, a correction).  `to_us` None is open-ended.
    `shared` claims of one precedence hold a slot together, each by its `weight`.
    """

    source: str
    id: str
    tenant: str
    project: str
    job: str
    subjects: tuple[Subject, ...]
    from_us: Whole
    to_us: Whole | None = None
    kind: str = "job"
    """`job`, `reservation` or `maintenance`."""
    known_us: Whole = 0
    weight: Whole = 1
    """The share of a GPU that several claims share, in parts of their sum or of `parts`; a weight
    below 1 counts as 1."""
    precedence: Whole = 0
    """Of claims that hold a slot at a time the one with the greatest wins: see PRECEDENCE."""
    account: str = ""
    """What the scheduler or the node says of the holder; `tenant` is empty where none of it
    names one, and such an allocation owns nothing until somebody maps it."""
    user: str = ""
    namespace: str = ""
    deleted: bool = False
    shared: bool = False
    """Whether others may hold the same slots at the same time, with claims that say so too."""
    parts: Whole = 0
    """Of how many parts a shared GPU is, where less may be held than all (7 slices with MIG); 0:
    the sum of the weights."""

    @property
    def key(self) -> bytes:
        """The record's key on the bus."""
        return f"{self.source}\x00{self.id}".encode()


class Flushed(msgspec.Struct, frozen=True):
    """What a `store` wrote, announced before it commits: a record of `petawatch.flushed`.

    `touched` are the (node, hour in hours since 1970) whose minutes changed;
    `bus_us` the bus time that the partition has reached.
    """

    partition: int
    offset: int
    bus_us: int
    touched: tuple[tuple[str, int], ...]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened: a record of `telemetry.events`."""

    time_us: int
    node: str
    kind: str
    """`agent_start`, `agent_stop`, `gpu_lost`, `gpu_recovered`, `xid`, `ecc`, `mig`, …"""
    slot: str = ""
    uuid: str = ""
    code: int | None = None
    text: str = ""
    source: str = ""
    """Who saw it: `driver`, `kernel_log` or `agent`."""
    action: str = ""
    """What the maker recommends, as one of the words of `xids.csv`."""
    concerns: str = ""
    """`tenant` (their program) or `operator`."""
    occupant: str = ""
    """The job or pod that ran there then."""
    count: int = 1
    """How many happenings the record stands for: a storm is told by its first, then summed up."""


class FacilityReading(msgspec.Struct, frozen=True):
    """What the building measures: a record of `telemetry.facility`, keyed by place.

    `place_kind` is `rack`, `hall` or `site`; `metric` a name with its unit (`inlet_c`,
    `coolant_c`, `power_kw`).
    """

    time_us: int
    place_kind: str
    place: str
    metric: str
    value: float


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that was refused, with the reason: a record of `telemetry.dead`.

    `reason` is short and fixed (a label of a counter), `detail` says more.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    payload: bytes


def dumps(value: msgspec.Struct) -> bytes:
    """JSON of a record."""
    return msgspec.json.encode(value)
