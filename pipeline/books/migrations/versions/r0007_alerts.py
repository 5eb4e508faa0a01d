"""The history of alerts and incidents, what people said of them, and what was delivered."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String, primary_key=primary_key, nullable=False)


def _whole(name: str, *, primary_key: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name, sa.BigInteger, primary_key=primary_key, nullable=False, autoincrement=False
    )


def upgrade() -> None:
    """Creates the tables."""
    _history()
    _incidents()
    _words()


def _history() -> None:
    op.create_table(
        "alert_history",
        _text("fingerprint", primary_key=True),
        _whole("at_us", primary_key=True),
        _text("state", primary_key=True),
        _text("severity", primary_key=True),
        _text("rule"),
        _text("scope"),
        _text("place"),
        _text("incident"),
        _text("record"),
    )
    op.create_index("alert_history_time", "alert_history", ["at_us"])
    op.create_index("alert_history_incident", "alert_history", ["incident"])


def _incidents() -> None:
    op.create_table(
        "incidents",
        _text("id", primary_key=True),
        _text("state"),
        _text("severity"),
        _text("concerns"),
        _whole("opened_us"),
        _whole("revision"),
        _text("words"),
        _text("record"),
    )
    op.create_index("incidents_time", "incidents", ["opened_us"])
    op.create_index("incidents_state", "incidents", ["state"])


def _words() -> None:
    op.create_table(
        "controls",
        _text("kind", primary_key=True),
        _text("id", primary_key=True),
        _text("incident"),
        _whole("at_us"),
        _text("record"),
    )
    op.create_index("controls_incident", "controls", ["incident"])
    op.create_table(
        "deliveries",
        _text("target", primary_key=True),
        _text("incident", primary_key=True),
        _whole("notice", primary_key=True),
        _whole("at_us"),
        _text("outcome"),
        _text("record"),
    )


def downgrade() -> None:
    """Removes them, with what they hold."""
    for name in ("deliveries", "controls", "incidents", "alert_history"):
        op.drop_table(name)
