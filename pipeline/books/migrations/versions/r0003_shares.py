"""Which claims share their slots, and of how many parts those are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; claims taken before hold their slots alone."""
    shared = sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("allocations", shared)
    parts = sa.Column("parts", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("allocations", parts)


def downgrade() -> None:
    """Removes them, with what they hold."""
    for name in ("parts", "shared"):
        op.drop_column("allocations", name)
