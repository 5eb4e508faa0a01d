"""Shapes of queries, as OpenAPI states them; a parameter that is not named here is refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.api.models_fleet import Concerns
from pipeline.api.ranges import Resolution


class SeriesQuery(BaseModel):
    """What series are asked for."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(description="Name of a node of the inventory.")
    slot: list[str] = Field([], description="PCI addresses, as 0000:1b:00.0; none means all.")
    metric: list[str] = Field(
        [], description="Names of the catalogue, and `pflops`; none means all of the catalogue."
    )
    from_: str | None = Field(
        None, alias="from", description="ISO-8601 or seconds since 1970; 15 minutes before `to`."
    )
    to: str | None = Field(None, description="ISO-8601 or seconds since 1970; now.")
    resolution: Resolution = Field(
        "auto",
        description="`raw` gives exactly what was stored; `minute` each minute; `auto` samples up "
        "to 20 minutes, else minutes in at most 1,500 steps.",
    )


class GpuQuery(BaseModel):
    """Which GPUs are asked for."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = None
    rack: str | None = None
    hall: str | None = None
    model: str | None = None
    tenant: str | None = None
    state: (
        Literal["reporting", "silent", "active", "throttled", "down", "allocated", "power_capped"]
        | None
    ) = None
    limit: int = Field(100, ge=1, le=1_000)
    offset: int = Field(0, ge=0)


class EventQuery(BaseModel):
    """Which events are asked for."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = None
    kind: str | None = Field(None, description="`xid`, `sxid`, `gpu_lost`, …")
    code: int | None = Field(None, description="An XID or SXid.")
    concerns: Concerns | None = None
    from_: str | None = Field(None, alias="from", description="ISO-8601 or seconds since 1970.")
    to: str | None = Field(None, description="ISO-8601 or seconds since 1970.")
    limit: int = Field(100, ge=1, le=1_000)


class AgentQuery(BaseModel):
    """Which agents are asked for."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = None
