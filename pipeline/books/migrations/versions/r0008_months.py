"""Frozen months, what would have changed them since, and why node-hours are pending."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_FIGURES = (
    "active_us", "idle_us", "down_us", "unobserved_us", "energy_mj", "gflop", "gflop_lo",
    "gflop_hi", "gflop_estimated", "throttle_power_cap_us", "throttle_sw_thermal_us",
    "throttle_hw_thermal_us", "throttle_power_brake_us", "throttle_sync_boost_us",
)  # fmt: skip


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _wholes(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _origin() -> sa.Column[Any]:
    return sa.Column("origin", sa.SmallInteger, nullable=False, autoincrement=False)


def upgrade() -> None:
    """Adds them, empty."""
    causes = sa.Column("causes", sa.Integer, nullable=False, server_default="0")
    op.add_column("pending", causes)
    op.create_table(
        "frozen_months",
        *_texts("month"),
        *_wholes("first_hour", "stop_hour"),
        *_texts("time_zone"),
        *_wholes("frozen_us"),
        *_texts("actor", "note", "sha256"),
        sa.PrimaryKeyConstraint("month"),
        sqlite_with_rowid=False,
    )
    key = ("month", "day", "owner_kind", "tenant", "project", "model")
    op.create_table(
        "frozen_days",
        *_texts(*key),
        _origin(),
        *_wholes(*_FIGURES),
        sa.PrimaryKeyConstraint(*key, "origin"),
        sqlite_with_rowid=False,
    )
    _adjustments()


def _adjustments() -> None:
    op.create_table(
        "adjustments",
        sa.Column("number", sa.Integer, primary_key=True),
        *_texts("month"),
        *_wholes("hour"),
        *_texts("node", "owner_kind", "tenant", "project", "job", "model"),
        _origin(),
        *_texts("cause"),
        *_wholes("known_us", *_FIGURES),
    )
    op.create_index("adjustments_month", "adjustments", ["month"])
    op.create_index("adjustments_hour", "adjustments", ["hour", "node"])
    op.create_index("adjustments_known", "adjustments", ["known_us"])


def downgrade() -> None:
    """Removes them; months that were frozen are then like any other."""
    for name in ("adjustments", "frozen_days", "frozen_months"):
        op.drop_table(name)
    op.drop_column("pending", "causes")
