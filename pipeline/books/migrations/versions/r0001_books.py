"""The first tables: ledger, day totals, allocations, positions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FIGURES = (
    "active_us",
    "idle_us",
    "down_us",
    "unobserved_us",
    "energy_mj",
    "gflop",
    "gflop_lo",
    "gflop_hi",
    "gflop_estimated",
    "throttle_power_cap_us",
    "throttle_sw_thermal_us",
    "throttle_hw_thermal_us",
    "throttle_power_brake_us",
    "throttle_sync_boost_us",
)


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _wholes(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def upgrade() -> None:
    """Makes them."""
    _ledger()
    _allocations()
    _progress()


def _ledger() -> None:
    op.create_table(
        "hours",
        *_wholes("hour"),
        *_texts("node", "slot", "owner_kind", "tenant", "project", "job", "model"),
        sa.Column("origin", sa.SmallInteger, nullable=False),
        *_wholes(*_FIGURES),
        sa.PrimaryKeyConstraint("hour", "node", "slot", "owner_kind", "tenant", "project", "job"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "node_hours",
        *_wholes("hour"),
        *_texts("node"),
        *_wholes("until_us"),
        sa.Column("final", sa.Boolean, nullable=False),
        *_wholes("computed_us"),
        sa.PrimaryKeyConstraint("hour", "node"),
        sqlite_with_rowid=False,
    )
    op.create_index("node_hours_open", "node_hours", ["final", "hour"])
    op.create_table(
        "day_totals",
        *_texts("day", "owner_kind", "tenant", "project", "model"),
        sa.Column("origin", sa.SmallInteger, nullable=False),
        *_wholes(*_FIGURES),
        sa.PrimaryKeyConstraint("day", "owner_kind", "tenant", "project", "model", "origin"),
        sqlite_with_rowid=False,
    )


def _allocations() -> None:
    op.create_table(
        "allocations",
        sa.Column("version", sa.Integer, primary_key=True),
        *_texts("source", "id"),
        *_wholes("known_from_us"),
        sa.Column("known_to_us", sa.BigInteger),
        *_wholes("known_us", "from_us"),
        sa.Column("to_us", sa.BigInteger),
        *_texts("kind", "tenant", "project", "job"),
        *_wholes("weight"),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_index("allocations_key", "allocations", ["source", "id", "known_to_us"])
    op.create_index("allocations_known", "allocations", ["known_to_us", "from_us"])
    op.create_table(
        "allocation_subjects",
        sa.Column("version", sa.Integer, sa.ForeignKey("allocations.version"), nullable=False),
        *_texts("node", "slot"),
        sa.PrimaryKeyConstraint("version", "node", "slot"),
        sqlite_with_rowid=False,
    )


def _progress() -> None:
    op.create_table(
        "pending",
        *_wholes("hour"),
        *_texts("node"),
        sa.PrimaryKeyConstraint("hour", "node"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "positions",
        *_texts("topic"),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        *_wholes("next_offset"),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "clocks",
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        *_wholes("next_offset", "bus_us"),
        sa.PrimaryKeyConstraint("partition"),
    )
    op.create_table(
        "spans",
        *_texts("node"),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("node"),
    )
    op.create_table("meta", *_texts("key", "value"), sa.PrimaryKeyConstraint("key"))


def downgrade() -> None:
    """Removes them, with all that is in them."""
    for table in (
        "allocation_subjects",
        "allocations",
        "hours",
        "node_hours",
        "day_totals",
        "pending",
        "positions",
        "clocks",
        "spans",
        "meta",
    ):
        op.drop_table(table)
