"""The tables of the books, for SQLite and PostgreSQL alike.

Times are µs since 1970 UTC, hours count from 1970 UTC, slots are PCI
addresses as text, figures are integers in the catalogue's units.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)

from pipeline.books.rows import FIGURES, STATES

metadata = MetaData()


def _text(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, String, primary_key=primary_key, nullable=False)


def _whole(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, BigInteger, primary_key=primary_key, nullable=False, autoincrement=False)


def _figures() -> list[Column[Any]]:
    return [_whole(name) for name in FIGURES]


hours = Table(
    "hours",
    metadata,
    _whole("hour", primary_key=True),
    _text("node", primary_key=True),
    _text("slot", primary_key=True),
    _text("owner_kind", primary_key=True),
    _text("tenant", primary_key=True),
    _text("project", primary_key=True),
    _text("job", primary_key=True),
    _text("model"),
    Column("origin", SmallInteger, nullable=False),
    *_figures(),
    sqlite_with_rowid=False,
)
"""The ledger: one row per (hour, slot, owner)."""

node_hours = Table(
    "node_hours",
    metadata,
    _whole("hour", primary_key=True),
    _text("node", primary_key=True),
    _whole("until_us"),
    Column("final", Boolean, nullable=False),
    _whole("computed_us"),
    Column("hall", String, nullable=False, server_default=""),
    Column("gflops_per_gpu", BigInteger, nullable=False, server_default="0"),
    Index("node_hours_open", "final", "hour"),
    sqlite_with_rowid=False,
)
"""Which node-hours are in the ledger, up to which time, and whether for good; where the node
stood in the hour, and what each of its GPUs counts in the nameplate (GFLOP/s)."""

day_totals = Table(
    "day_totals",
    metadata,
    _text("day", primary_key=True),
    _text("owner_kind", primary_key=True),
    _text("tenant", primary_key=True),
    _text("project", primary_key=True),
    _text("model", primary_key=True),
    Column("origin", SmallInteger, primary_key=True, nullable=False, autoincrement=False),
    *_figures(),
    sqlite_with_rowid=False,
)
"""Sums of `hours` per day of the site's time zone (an hour is of the day in which it begins)."""

_PLACE_FIGURES = (*STATES, "energy_mj", "gflop", "gflop_lo", "gflop_hi", "gflop_estimated")


def _places(when: Column[Any], *owner: str) -> list[Column[Any]]:
    return [
        when,
        _text("hall", primary_key=True),
        _text("model", primary_key=True),
        _whole("gflops_per_gpu", primary_key=True),
        *(_text(name, primary_key=True) for name in owner),
        Column("origin", SmallInteger, primary_key=True, nullable=False, autoincrement=False),
    ]


day_places = Table(
    "day_places",
    metadata,
    *_places(_text("day", primary_key=True), "owner_kind", "tenant"),
    *(_whole(name) for name in _PLACE_FIGURES),
    sqlite_with_rowid=False,
)
"""Sums of `hours` per day, hall and nameplate: what the capacity waterfall reads."""

hour_places = Table(
    "hour_places",
    metadata,
    *_places(_whole("hour", primary_key=True), "owner_kind"),
    *(_whole(name) for name in _PLACE_FIGURES),
    sqlite_with_rowid=False,
)
"""The same per hour, without tenants."""

day_jobs = Table(
    "day_jobs",
    metadata,
    _text("day", primary_key=True),
    _text("owner_kind", primary_key=True),
    _text("tenant", primary_key=True),
    _text("project", primary_key=True),
    _text("job", primary_key=True),
    _text("model", primary_key=True),
    _whole("gflops_per_gpu", primary_key=True),
    Column("origin", SmallInteger, primary_key=True, nullable=False, autoincrement=False),
    *_figures(),
    sqlite_with_rowid=False,
)
"""Sums of `hours` per day and job."""

job_hours = Table(
    "job_hours",
    metadata,
    _text("tenant", primary_key=True),
    _text("project", primary_key=True),
    _text("job", primary_key=True),
    _whole("hour", primary_key=True),
    *(_whole(name) for name in STATES),
    sqlite_with_rowid=False,
)
"""In which hours a tenant's job held anything."""

allocations = Table(
    "allocations",
    metadata,
    Column("version", Integer, primary_key=True),
    _text("source"),
    _text("id"),
    _whole("known_from_us"),
    Column("known_to_us", BigInteger),
    _whole("known_us"),
    _whole("from_us"),
    Column("to_us", BigInteger),
    _text("kind"),
    _text("tenant"),
    _text("project"),
    _text("job"),
    Column("weight", BigInteger, nullable=False),
    _whole("precedence"),
    _text("account"),
    _text("user_name"),
    _text("namespace"),
    Column("deleted", Boolean, nullable=False),
    Column("shared", Boolean, nullable=False),
    _whole("parts"),
    Index("allocations_key", "source", "id", "known_to_us"),
    Index("allocations_known", "known_to_us", "from_us"),
)
"""Every version of every allocation; the one without `known_to_us` is the last word."""

allocation_subjects = Table(
    "allocation_subjects",
    metadata,
    Column("version", Integer, ForeignKey("allocations.version"), primary_key=True),
    _text("node", primary_key=True),
    _text("slot", primary_key=True),
    sqlite_with_rowid=False,
)
"""What a version holds; an empty slot means all of the node's."""

site_files = Table(
    "site_files",
    metadata,
    Column("number", Integer, primary_key=True),
    _text("kind"),
    _text("sha256"),
    _whole("known_from_us"),
    _text("text"),
    Index("site_files_kind", "kind", "number"),
)
"""Every version of the inventory (`site`, as JSON) and of the tenants file (`tenants`, as people
wrote it) by which the books were kept; see `pipeline.books.site_files`."""

pending = Table(
    "pending",
    metadata,
    _whole("hour", primary_key=True),
    _text("node", primary_key=True),
    Column("causes", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
"""Node-hours to be computed again, and why (`pipeline.books.progress.Cause`); written with the
positions that told of them."""

positions = Table(
    "positions",
    metadata,
    _text("topic", primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    _whole("next_offset"),
)
"""How far each topic has been read."""

clocks = Table(
    "clocks",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    _whole("next_offset"),
    _whole("bus_us"),
)
"""How far the series store has every partition of the GPU records."""

spans = Table(
    "spans", metadata, _text("node", primary_key=True), Column("data", LargeBinary, nullable=False)
)
"""Per node the first and last kept point of each series (`pipeline.books.spans`)."""

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True),
    _whole("at_us"),
    _text("actor"),
    _text("action"),
    _text("subject"),
    _text("detail"),
    Index("audit_time", "at_us"),
    Index("audit_subject", "subject"),
)
"""Who did what when; `detail` is JSON.  Rows are added, never changed."""

outbox = Table(
    "outbox",
    metadata,
    Column("number", Integer, primary_key=True),
    _text("topic"),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
)
"""Records decided on and not yet on the bus, in order; see `pipeline.books.acts`."""

meta = Table("meta", metadata, _text("key", primary_key=True), _text("value"))
"""What holds for the books as a whole: the time zone of `day_totals`, the first hour."""
