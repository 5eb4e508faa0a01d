"""Shapes of what is asked and said of months that are frozen."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.api.models_usage import FrozenBy


class FreezeIn(BaseModel):
    """Who freezes a month, and what there is to say of it."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field("", max_length=100, description="A name; nobody checks it.")
    note: str = Field("", max_length=1_000)


class Month(BaseModel):
    """A month of the site's time zone, of which the ledger has something."""

    model_config = ConfigDict(populate_by_name=True)

    month: str
    from_: str = Field(alias="from")
    to: str
    ledger_from: str | None
    final: bool
    frozen: FrozenBy | None


class Months(BaseModel):
    """All months, the newest first."""

    time_zone: str
    months: list[Month]


class Checked(BaseModel):
    """Whether a frozen month still is what was frozen; `differences` are the first fifty."""

    month: str
    same: bool
    frozen: FrozenBy
    sha256: str = Field(description="Over the ledger's rows as they are now.")
    differences: list[dict[str, Any]]


class Adjustments(BaseModel):
    """By what frozen months would be others, as far as that is known now."""

    time_zone: str
    month: str | None
    booked: str | None
    rows: list[dict[str, Any]]
