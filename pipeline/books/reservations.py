"""Reservations, maintenance windows and corrections that people decide on: what stands now.

The books learn of a decision over the bus, a moment after it was written; what
was decided meanwhile is read from the audit, so that an answer never lags
behind what its asker just did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, desc, select

from collectors.contract.bus import Message
from collectors.contract.topics import Allocation, dumps
from pipeline.books import schema, versions
from pipeline.books.acts import Act
from pipeline.books.corrections import CORRECTION, Key

SOURCE = "api"
"""Of reservations and windows that come by the API."""
_RECORD = "record"
_RECENT = 500
_ACTIONS = [
    f"{one}.{what}"
    for one in ("reservation", "maintenance", "correction")
    for what in ("set", "delete")
]


def decision(
    actor: str, action: str, one: Allocation, topic: str, detail: Mapping[str, Any]
) -> Act:
    """The act that makes a record the last word of its (source, id)."""
    told = {**detail, _RECORD: msgspec.to_builtins(one)}
    message = Message(topic, one.key, dumps(one))
    return Act(actor, action, f"{one.source} {one.id}", told, (message,))


def standing(connection: Connection, kind: str) -> list[Allocation]:
    """All reservations (`reservation`) or windows (`maintenance`) that are not deleted, or the
    corrections (`correction`) that stand, in order of (from, source, id)."""
    table = schema.allocations.c
    wanted = table.source == CORRECTION if kind == CORRECTION else table.kind == kind
    where = and_(wanted, versions.known_at(None))
    found: dict[Key, Allocation] = {}
    for version in versions.select_versions(connection, where):
        found[version.allocation.source, version.allocation.id] = version.allocation
    for one in _decided(connection):
        key = (one.source, one.id)
        mine = one.source == CORRECTION if kind == CORRECTION else one.kind == kind
        if mine and (key not in found or one.known_us > found[key].known_us):
            found[key] = one
    others = kind == CORRECTION
    left = [
        one for one in found.values() if not one.deleted and (others or one.source != CORRECTION)
    ]
    return sorted(left, key=lambda one: (one.from_us, one.source, one.id))


def _decided(connection: Connection) -> Sequence[Allocation]:
    """The last decisions, the oldest first."""
    table = schema.audit.c
    query = select(table.detail).where(table.action.in_(_ACTIONS))
    rows = connection.execute(query.order_by(desc(table.number)).limit(_RECENT))
    told = [msgspec.json.decode(detail)[_RECORD] for (detail,) in rows]
    return [msgspec.convert(one, Allocation) for one in reversed(told)]


def last_word(connection: Connection, key: Key) -> Allocation | None:
    """What a source last said of an id, as far as the books know."""
    table = schema.allocations.c
    where = and_(table.source == key[0], table.id == key[1], versions.known_at(None))
    found = versions.select_versions(connection, where)
    return found[0].allocation if found else None
