"""Shapes of answers about the pipeline itself and out of the books, as OpenAPI states them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class NodeBalance(BaseModel):
    """Law 6 as columns over nodes: sent = stored + rejected + dropped + in flight."""

    node: list[str]
    sent: list[int]
    stored: list[int]
    rejected: list[int]
    dropped: list[int]
    in_flight: list[int]
    repeated: list[int]


class Balance(BaseModel):
    """Law 6 over the whole site; `difference` must be 0."""

    sent: int
    stored: int
    rejected: int
    dropped: int
    in_flight: int
    repeated: int
    difference: int


class Lag(BaseModel):
    """How far a consumer is behind on a partition."""

    role: str
    instance: str
    topic: str
    partition: int
    records: float | None
    seconds: float | None


class PipelineHealth(BaseModel):
    """What every role says of itself."""

    time_us: int
    live: dict[str, Any]
    balance: Balance
    nodes: NodeBalance
    lag: list[Lag]
    clock_offset_us: dict[str, float]
    roles: list[dict[str, Any]]


class Allocations(BaseModel):
    """The allocations that hold at a time."""

    time_us: int
    allocations: list[dict[str, Any]]
