"""What usage is read from: where a node stood in an hour, and sums by place and by job.

The sums are filled by `pipeline.books.journal.keep_totals`, which knows the
inventory.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATES = ("active_us", "idle_us", "down_us", "unobserved_us")
_FLOP = ("gflop", "gflop_lo", "gflop_hi", "gflop_estimated")
_THROTTLED = (
    "throttle_power_cap_us",
    "throttle_sw_thermal_us",
    "throttle_hw_thermal_us",
    "throttle_power_brake_us",
    "throttle_sync_boost_us",
)


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _wholes(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, autoincrement=False) for name in names]


def _table(name: str, key: list[sa.Column[Any]], figures: tuple[str, ...]) -> None:
    op.create_table(
        name,
        *key,
        *_wholes(*figures),
        sa.PrimaryKeyConstraint(*(column.name for column in key)),
        sqlite_with_rowid=False,
    )


def _origin() -> sa.Column[Any]:
    return sa.Column("origin", sa.SmallInteger, nullable=False, autoincrement=False)


def upgrade() -> None:
    """Adds them, empty."""
    hall = sa.Column("hall", sa.String, nullable=False, server_default="")
    rate = sa.Column("gflops_per_gpu", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("node_hours", hall)
    op.add_column("node_hours", rate)
    place = ("hall", "model")
    figures = (*_STATES, "energy_mj", *_FLOP)
    for name, when, owner in (
        ("day_places", _texts("day"), ("owner_kind", "tenant")),
        ("hour_places", _wholes("hour"), ("owner_kind",)),
    ):
        key = [*when, *_texts(*place), *_wholes("gflops_per_gpu"), *_texts(*owner), _origin()]
        _table(name, key, figures)
    job = ("owner_kind", "tenant", "project", "job", "model")
    key = [*_texts("day", *job), *_wholes("gflops_per_gpu"), _origin()]
    _table("day_jobs", key, (*_STATES, "energy_mj", *_FLOP, *_THROTTLED))
    _table("job_hours", [*_texts("tenant", "project", "job"), *_wholes("hour")], _STATES)


def downgrade() -> None:
    """Removes them."""
    for name in ("job_hours", "day_jobs", "hour_places", "day_places"):
        op.drop_table(name)
    for name in ("gflops_per_gpu", "hall"):
        op.drop_column("node_hours", name)
    op.execute("DELETE FROM meta WHERE key = 'totals'")
