"""Shapes of what people write down of allocations, and of why a GPU is whose it is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WindowIn(_Body):
    """GPUs that are out of service for a time."""

    nodes: list[str] = Field(min_length=1, max_length=1_000, examples=[["a03n[01-08]"]])
    slots: list[str] = Field(default=[], max_length=64, examples=[["0000:1b:00.0"]])
    """PCI addresses on each of the nodes; none are all."""
    from_: str = Field(alias="from")
    to: str | None = None
    note: str = Field(default="", max_length=1_000)


class ReservationIn(_Body):
    """GPUs, or slices of them, given to somebody for a time."""

    tenant: str = Field(min_length=1, max_length=200)
    project: str = Field(default="", max_length=200)
    nodes: list[str] = Field(min_length=1, max_length=1_000, examples=[["a03n[01-08]"]])
    slots: list[str] = Field(default=[], max_length=64, examples=[["0000:1b:00.0"]])
    slices: int | None = Field(default=None, ge=1, le=7)
    """Of a GPU's seven MIG slices; none is the GPU."""
    from_: str = Field(alias="from")
    to: str | None = None
    note: str = Field(default="", max_length=1_000)


class CorrectionIn(_Body):
    """What is true of a record, where its source told another thing; what is left out is as told."""

    source: str = Field(min_length=1, max_length=200)
    id: str = Field(min_length=1, max_length=500)
    nobody: bool = False
    """Nobody held anything."""
    tenant: str | None = Field(default=None, max_length=200)
    project: str | None = Field(default=None, max_length=200)
    job: str | None = Field(default=None, max_length=200)
    nodes: list[str] | None = Field(default=None, max_length=1_000)
    slots: list[str] | None = Field(default=None, max_length=64)
    from_: str | None = Field(default=None, alias="from")
    to: str | None = None
    reason: str = Field(min_length=1, max_length=1_000)


class Standing(BaseModel):
    """Records of `telemetry.alloc`, as JSON."""

    allocations: list[dict[str, Any]]


class Decided(BaseModel):
    """What was written; the books have it within seconds."""

    allocation: dict[str, Any]


class TenantsAnswer(BaseModel):
    """The tenants file."""

    tenants: list[dict[str, Any]]
    names: list[dict[str, Any]]


class WhyAnswer(BaseModel):
    """Who owned a GPU at a time, and by what."""

    node: str
    slot: str
    time_us: int
    known_us: int | None
    model: str | None
    owner: dict[str, Any] | None
    shares: list[dict[str, Any]]
    claims: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    hour: dict[str, Any] | None
