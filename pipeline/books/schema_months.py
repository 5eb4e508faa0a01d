"""The tables of months that a person has frozen, and of what would have changed them since."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table

from pipeline.books.rows import FIGURES
from pipeline.books.schema import metadata


def _text(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, String, primary_key=primary_key, nullable=False)


def _whole(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


def _origin(*, primary_key: bool) -> Column[Any]:
    return Column(
        "origin", SmallInteger, primary_key=primary_key, nullable=False, autoincrement=False
    )


frozen_months = Table(
    "frozen_months",
    metadata,
    _text("month", primary_key=True),
    _whole("first_hour"),
    _whole("stop_hour"),
    _text("time_zone"),
    _whole("frozen_us"),
    _text("actor"),
    _text("note"),
    _text("sha256"),
    sqlite_with_rowid=False,
)
"""A month (YYYY-MM of the time zone) with its hours, who froze it when, and the SHA-256 of its
day totals (`pipeline.books.months.digest`)."""

frozen_days = Table(
    "frozen_days",
    metadata,
    _text("month", primary_key=True),
    _text("day", primary_key=True),
    _text("owner_kind", primary_key=True),
    _text("tenant", primary_key=True),
    _text("project", primary_key=True),
    _text("model", primary_key=True),
    _origin(primary_key=True),
    *(_whole(name) for name in FIGURES),
    sqlite_with_rowid=False,
)
"""The day totals of a frozen month, as they were when it was frozen."""

adjustments = Table(
    "adjustments",
    metadata,
    Column("number", Integer, primary_key=True),
    _text("month"),
    _whole("hour"),
    _text("node"),
    _text("owner_kind"),
    _text("tenant"),
    _text("project"),
    _text("job"),
    _text("model"),
    _origin(primary_key=False),
    _text("cause"),
    _whole("known_us"),
    *(_whole(name) for name in FIGURES),
    Index("adjustments_month", "month"),
    Index("adjustments_hour", "hour", "node"),
    Index("adjustments_known", "known_us"),
)
"""By what a node-hour of a frozen month would be another, since when that is known.  Rows are
added, never changed: what the ledger has of the hour, and all its adjustments, are together what
it would be without the freeze."""
