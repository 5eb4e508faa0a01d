"""Shapes of answers about usage, as OpenAPI states them; in words in docs/usage.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.api.models import OriginName


class FrozenBy(BaseModel):
    """Who froze a month, when, and the SHA-256 of its day totals."""

    time: str
    by: str
    note: str
    sha256: str
    adjustments: int | None = Field(None, description="Rows of what has been learnt since.")


class _Of(BaseModel):
    """What every answer says of its time."""

    model_config = ConfigDict(populate_by_name=True)

    period: str | None = Field(description="The month or day asked for; null for from and to.")
    from_: str = Field(alias="from")
    to: str
    time_zone: str
    ledger_from: str | None = Field(description="Where the ledger begins within the time.")
    as_of: str | None = Field(description="How far the ledger reaches within the time.")
    final: bool = Field(description="All of it is there, for good unless a correction comes.")
    frozen: FrozenBy | None = Field(description="Of a month that was frozen: by whom, and when.")


class _Row(BaseModel):
    """A row that may gain fields."""

    model_config = ConfigDict(extra="allow")


class Usage(_Of):
    """Sums of the ledger, in its integers: µs, mJ, GFLOP."""

    by: list[str]
    resolution: str
    rows: list[dict[str, Any]]


class Amount(_Row):
    """GPU-time and its nameplate; of FLOP the GPU-hours at full nameplate that deliver as much."""

    name: str
    gpu_us: int | None
    gpu_hours: float
    pflop_hours: float
    pflops: float | None = Field(description="Mean over the time that the ledger has.")
    share: float | None = Field(description="Of the installed nameplate.")
    share_gpu_hours: float | None = Field(description="Of the installed GPU-time.")


class Drop(Amount):
    """What lies between a step and the next."""

    from_: str = Field(alias="from")


class Bridge(Amount):
    """A level or a drop on the way from published utilisation to what was delivered."""

    kind: Literal["level", "drop"]


class WaterfallRow(_Row):
    """One waterfall; with `by` its group, with `resolution` its time."""

    origin: OriginName
    steps: list[Amount]
    drops: list[Drop]
    bridge: list[Bridge]
    active_unallocated: dict[str, Any]
    delivered: dict[str, float | int]
    gflop_unallocated: int
    energy_mj: int


class Waterfall(_Of):
    """Capacity waterfalls."""

    definition: str
    by: str
    resolution: str
    hours: float = Field(description="Hours that the ledger has of the time.")
    rows: list[WaterfallRow]


class Line(_Row):
    """Sums of one owner."""

    origin: OriginName
    gpu_us: int
    active_us: int
    idle_us: int
    down_us: int
    unobserved_us: int
    energy_mj: int
    gflop: int
    gflop_lo: int
    gflop_hi: int
    gflop_estimated: int
    gpu_hours: float
    pflop_hours: float
    nameplate_pflop_hours: float | None
    kwh: float
    efficiency: float | None = Field(description="Measured FLOP over the nameplate of all held.")
    idle_share: float | None
    observed_share: float | None


class TenantLine(Line):
    """A tenant."""

    tenant: str
    rank: int
    share: float | None = Field(description="Of the GPU-time that tenants held.")


class OtherLine(Line):
    """Unallocated time, or maintenance."""

    owner_kind: str


class Tenants(_Of):
    """All tenants, the one with most GPU-time first."""

    definition: str
    rows: list[TenantLine]
    others: list[OtherLine]
    totals: list[Line]


class JobLine(_Row):
    """A job."""

    tenant: str
    project: str
    job: str
    origin: OriginName
    models: list[str]
    first_hour_us: int | None
    last_hour_us: int | None
    gpu_us: int
    gpu_hours: float
    activity: float | None
    idle_share: float | None
    efficiency: float | None
    pflop_hours: float
    kwh: float
    waste: Literal["idle"] | None


class Efficiency(_Of):
    """Jobs; `total` counts all that the filters let through."""

    definition: str
    total: int
    offset: int
    rows: list[JobLine]


class WasteRow(_Row):
    """A GPU that was held and did nothing for a time; extremes over that time, null if absent."""

    tenant: str
    project: str
    job: str
    kind: Literal["idle", "hung", "cannot_tell"]
    node: str
    slot: str
    model: str
    origin: OriginName
    from_us: int
    to_us: int
    minutes: int
    idle_share: float | None
    utilization_min: float | None
    power_w_max: float | None
    loaded_idle_w: float | None
    missing: list[str]


class Waste(_Of):
    """Waste; `total` counts all that the filters let through."""

    definition: str
    total: int
    rows: list[WasteRow]
