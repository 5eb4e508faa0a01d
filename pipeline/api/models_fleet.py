"""Shapes of answers about events, agents and instances, as OpenAPI states them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

Concerns = Literal["tenant", "operator"]


class EventRow(BaseModel):
    """Something that happened on a node, with what to make of it."""

    time: str
    time_us: int
    node: str
    kind: str
    slot: str | None = Field(description="PCI address of the GPU (of the NVSwitch for `sxid`).")
    uuid: str | None
    code: int | None = Field(description="The XID or SXid.")
    name: str = Field(description="What the code means.")
    text: str
    source: str = Field(description="Who saw it: `driver`, `kernel_log` or `agent`.")
    severity: str = Field(description="`info`, `warning` or `critical`.")
    action: str = Field(description="What the maker recommends, as a word of docs/xids.md.")
    advice: str = Field(description="The same as a sentence.")
    concerns: str = Field(description="`tenant` (their program) or `operator`.")
    occupant: str | None = Field(description="The job or pod that ran there then.")
    count: int = Field(description="How many happenings the row stands for.")


class Events(BaseModel):
    """The newest events that all filters let through; `total` counts all of those held."""

    total: int
    events: list[EventRow]


class GpuFactsRow(BaseModel):
    """What an agent knows of one GPU or MIG instance."""

    slot: str
    uuid: str
    model: str
    serial: str
    number: int | None
    parent: str
    profile: str
    sm_count: int | None
    limits: dict[str, float]
    flop_method: str
    flop_reason: str
    unsupported: dict[str, str] = Field(description="Signal → why this GPU does not give it.")
    state: str


class AgentRow(BaseModel):
    """What a node's agent said of itself last; nulls where none has spoken."""

    node: str
    known: bool = Field(description="False: in the inventory, and no agent has said anything.")
    installed: bool = Field(description="False: an agent of a node that the inventory lacks.")
    version: str | None = None
    source: str | None = None
    origin: str | None = None
    driver: str | None = None
    interval_s: float | None = None
    age_s: float | None = Field(None, description="Since the bus took its last facts.")
    clock_offset_us: float | None = Field(None, description="Bus time minus the node's, robust.")
    spooled: int | None = None
    dropped: int | None = None
    heard_since_us: int | None = Field(
        None, description="When the bus took the oldest of its facts that it still has."
    )
    unlisted: list[str] = Field(
        [], description="GPUs that it speaks of and the inventory lacks: they count for nothing."
    )
    unheard: list[str] = Field(
        [], description="Slots of the inventory that this agent knows nothing of."
    )
    slots_line: str | None = Field(
        None, description="The line of `site.toml` that would fit, where the two differ."
    )
    missing: dict[str, str] = Field({}, description="What the whole node does not give → why.")
    gpus: list[GpuFactsRow] = []


class Agents(BaseModel):
    """The agents of all nodes, in order of name."""

    agents: list[AgentRow]


class InstanceNow(BaseModel):
    """A MIG instance now.

    `values` are its own; its `power_allocated_w` is a share of the GPU's power
    by activity, never a measurement.  `shared` are the whole GPU's, since an
    instance has none of its own.
    """

    slot: str
    parent: str
    profile: str | None
    uuid: str | None
    occupant: str | None
    origin: str
    age_s: float | None
    values: dict[str, float | int]
    shared: dict[str, float | int]
