"""What a scheduler says of a claim's holder, and how far its word goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXTS = ("account", "user_name", "namespace")


def upgrade() -> None:
    """Adds the columns; claims taken before are of the lowest precedence, and name no holder."""
    precedence = sa.Column("precedence", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("allocations", precedence)
    for name in _TEXTS:
        op.add_column("allocations", sa.Column(name, sa.String, nullable=False, server_default=""))


def downgrade() -> None:
    """Removes them, with what they hold."""
    for name in ("precedence", *_TEXTS):
        op.drop_column("allocations", name)
