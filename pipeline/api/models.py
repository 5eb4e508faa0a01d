"""Shapes of answers, as OpenAPI states them.

Answers with columns are written straight from arrays; their models are the
contract's text, and tests hold answers against them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.api.models_fleet import AgentRow, InstanceNow
from pipeline.api.ranges import MAX_RAW_VALUES

State = Literal["starting", "live", "partial", "stale", "down"]
OriginName = Literal["measured", "replayed", "simulated", "none"]


class Open(BaseModel):
    """An answer that may gain fields; clients ignore what they do not know."""

    model_config = ConfigDict(extra="allow")


class TenantNow(Open):
    """What a tenant holds and gets now."""

    tenant: str
    gpus: int
    active: int | None = None
    pflops: float | None = None
    pflops_nameplate: float | None = None
    power_kw: float | None = None
    utilization: float | None = Field(None, description="Mean GPU utilisation, ratio.")


class RackNow(Open):
    """A rack's sums now."""

    hall: str
    rack: str
    gpus_installed: int
    gpus_reporting: int | None = None
    pflops: float | None = None
    pflops_nameplate: float | None = None
    power_kw: float | None = None
    temperature_max_c: float | None = None


class Live(Open):
    """The fleet now.  PFLOPS are dense-FP16-equivalent; null means that nothing measured it."""

    time: str | None
    time_us: int | None
    site: str
    title: str
    origin: OriginName
    state: State
    age_s: float | None
    gpus_installed: int
    gpus_reporting: int
    pflops_nameplate: float
    pflops_delivered: float | None
    pflops_lo: float | None
    pflops_hi: float | None
    coverage: float | None = Field(description="GPU-seconds measured over those installed.")
    power_kw: float | None
    tenants: list[TenantNow]
    racks: list[RackNow]
    halls: list[dict[str, Any]]
    nodes_missing: list[str]


class LiveHistory(BaseModel):
    """The fleet's figures of the last minutes, as columns."""

    time_us: list[int]
    pflops_delivered: list[float | None]
    pflops_allocated: list[float | None]
    power_kw: list[float | None]
    gpus_active: list[int | None]
    temperature_max_c: list[float | None]
    gpus_reporting: list[int | None]


class Nameplate(BaseModel):
    """What nameplate PFLOPS mean."""

    precision: str
    sparsity: str
    clock_basis: str


class Layout(BaseModel):
    """Halls, racks, nodes and slots in the order of the frame's columns."""

    id: str
    site: str
    title: str
    time_zone: str
    nameplate: Nameplate
    halls: list[dict[str, Any]]
    gpus: int


class Site(BaseModel):
    """A site as it is installed now."""

    site: str
    title: str
    time_zone: str
    nameplate: Nameplate
    halls: int
    racks: int
    nodes: int
    gpus: int
    pflops_nameplate: float


class Sites(BaseModel):
    """All sites that this server knows."""

    sites: list[Site]


class Racks(BaseModel):
    """All racks now."""

    racks: list[RackNow]


class Tenants(BaseModel):
    """All tenants now."""

    time_us: int | None
    state: State
    tenants: list[TenantNow]


class NodeNow(Open):
    """A node now; counts are null while no live frame of this layout has come."""

    node: str
    hall: str
    rack: str
    model: str
    gpus: int
    pflops_nameplate: float
    gpus_reporting: int | None
    gpus_active: int | None
    gpus_down: int | None
    gpus_throttled: int | None
    temperature_max_c: int | None
    pflops: float | None
    power_kw: float | None
    utilization: float | None


class Nodes(BaseModel):
    """All nodes that are installed now."""

    nodes: list[NodeNow]


class GpuNow(BaseModel):
    """A GPU now: who sits in the slot, who holds it, and the latest value of each metric it has."""

    node: str
    slot: str
    uuid: str | None
    model: str
    serial: str | None
    occupant: str | None
    tenant: str | None
    reporting: bool | None
    active: bool | None
    throttled: bool | None
    down: bool | None
    origin: OriginName
    age_s: float | None
    values: dict[str, float | int]


class NodeDetail(BaseModel):
    """A node with its GPUs."""

    node: str
    hall: str
    rack: str
    model: str
    pflops_nameplate: float
    tenants: list[str]
    age_s: float | None
    gpus: list[GpuNow]
    instances: list[InstanceNow]
    agent: AgentRow | None = Field(description="What its agent said last; null for none.")


class Gpus(BaseModel):
    """A page of GPUs; `total` counts all that the filters let through."""

    total: int
    offset: int
    gpus: list[GpuNow]


class MetricRow(BaseModel):
    """A row of the catalogue."""

    name: str
    number: int
    unit: str
    help: str
    kind: Literal["gauge", "counter"]
    valid: tuple[float, float]
    decimals: int
    shown: str


class MetricCatalogue(BaseModel):
    """All metrics; `derived` names those that series computes, with the counter behind each."""

    metrics: list[MetricRow]
    derived: dict[str, str]


class OneSeries(BaseModel):
    """One metric of one slot, as columns of equal length; points without a value are left out."""

    slot: str
    metric: str
    unit: str
    origin: OriginName
    time_us: list[int]
    value: list[float | int]
    min: list[float] | None = Field(None, description="Of gauges, per step of minutes.")
    max: list[float] | None = Field(None, description="Of gauges, per step of minutes.")
    rate: list[float | None] | None = Field(None, description="Of counters, but not with raw.")
    rate_unit: str | None = None
    thinned: bool | None = Field(None, description="True: not every sample is shown.")


class SeriesAnswer(BaseModel):
    """Series of a node's GPUs."""

    model_config = ConfigDict(populate_by_name=True)

    node: str
    resolution: Literal["raw", "minute"]
    step_s: int | None = Field(description="Seconds per point with minutes.")
    from_: str = Field(alias="from")
    to: str
    next: str | None = Field(
        None,
        description="With resolution=raw, where to go on (as `from`) when the range held more than "
        f"{MAX_RAW_VALUES:,} values.",
    )
    series: list[OneSeries]
