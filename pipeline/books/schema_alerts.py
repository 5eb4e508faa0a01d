"""The tables of alerts: a copy of what is on the bus, kept for ever and searchable.

`record` is the record as JSON; the other columns are what is searched by.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, String, Table

from pipeline.books.schema import metadata


def _text(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, String, primary_key=primary_key, nullable=False)


def _whole(name: str, *, primary_key: bool = False) -> Column[Any]:
    return Column(name, BigInteger, primary_key=primary_key, nullable=False, autoincrement=False)


alert_history = Table(
    "alert_history",
    metadata,
    _text("fingerprint", primary_key=True),
    _whole("at_us", primary_key=True),
    _text("state", primary_key=True),
    _text("severity", primary_key=True),
    _text("rule"),
    _text("scope"),
    _text("place"),
    _text("incident"),
    _text("record"),
    Index("alert_history_time", "at_us"),
    Index("alert_history_incident", "incident"),
)
"""Every transition once."""

incidents = Table(
    "incidents",
    metadata,
    _text("id", primary_key=True),
    _text("state"),
    _text("severity"),
    _text("concerns"),
    _whole("opened_us"),
    _whole("revision"),
    _text("words"),
    _text("record"),
    Index("incidents_time", "opened_us"),
    Index("incidents_state", "state"),
)
"""The last revision of every incident; `words` is what a search looks through, in small letters."""

controls = Table(
    "controls",
    metadata,
    _text("kind", primary_key=True),
    _text("id", primary_key=True),
    _text("incident"),
    _whole("at_us"),
    _text("record"),
    Index("controls_incident", "incident"),
)
"""Silences, acknowledgements and comments, the last word on each."""

deliveries = Table(
    "deliveries",
    metadata,
    _text("target", primary_key=True),
    _text("incident", primary_key=True),
    _whole("notice", primary_key=True),
    _whole("at_us"),
    _text("outcome"),
    _text("record"),
)
"""What became of every notice at every target."""
