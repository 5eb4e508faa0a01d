"""Versions of allocations: nothing that was once known is lost.

The last record of a (source, id) is the current version; the one before it
keeps the time in which it was known, so that any past statement can be
computed again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation, Subject
from pipeline.books import schema
from pipeline.books.claims import Claim, claims_of
from pipeline.books.corrections import CORRECTION, Key, corrected_by, target_of
from pipeline.books.progress import Cause, NodeHour, add_pending, in_batches
from pipeline.books.rows import HOUR_US

_NEVER = 2**63 - 1
_TABLE = schema.allocations
_SUBJECTS = schema.allocation_subjects
Holding = frozenset[tuple[str, str]]
"""(node, slot) pairs; an empty slot means all of the node's."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version: its number, since when it is known, and what it says."""

    number: int
    known_from_us: int
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Change:
    """Where owners may differ between two versions: nodes, from, to (µs)."""

    nodes: frozenset[str]
    from_us: int
    to_us: int


@dataclass(slots=True)
class _Writes:
    versions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    subjects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: dict[int, int] = field(default_factory=dict[int, int])


def holding(allocation: Allocation) -> Holding:
    """What an allocation names, whatever the order or grouping of its subjects."""
    return frozenset(
        (subject.node, slot) for subject in allocation.subjects for slot in subject.slots or ("",)
    )


def _to_us(allocation: Allocation) -> int:
    return _NEVER if allocation.to_us is None else allocation.to_us


def _says(allocation: Allocation) -> tuple[object, ...]:
    """All but when it begins, ends and was known."""
    one = allocation
    holder = (one.tenant, one.project, one.job, one.account, one.user, one.namespace)
    shares = (one.shared, one.weight, one.parts)
    return (holding(one), one.kind, *holder, *shares, one.precedence, one.deleted)


def difference(before: Allocation | None, after: Allocation) -> list[Change]:
    """Where the owners of slots may change; an end that becomes known changes only what follows."""
    old = [] if before is None or before.deleted else [before]
    new = [] if after.deleted else [after]
    if old and new and _says(old[0]) == _says(new[0]) and old[0].from_us == new[0].from_us:
        ends = sorted((_to_us(old[0]), _to_us(new[0])))
        return [Change(_nodes(after), ends[0], ends[1])] if ends[0] < ends[1] else []
    return [whole(one) for one in (*old, *new)]


def whole(one: Allocation) -> Change:
    """All that an allocation holds, as a change."""
    return Change(_nodes(one), one.from_us, _to_us(one))


def _nodes(allocation: Allocation) -> frozenset[str]:
    return frozenset(subject.node for subject in allocation.subjects)


def record(connection: Connection, items: Sequence[tuple[Allocation, int]]) -> list[Change]:
    """Takes records in bus order with their bus time; a repeated one changes nothing.

    Returns where owners may have changed.
    """
    keys = {(one.source, one.id) for one, _ in items}
    targets = {key for one, _ in items if (key := corrected_by(one)) is not None}
    current = _current(connection, keys | targets)
    number = connection.execute(select(func.coalesce(func.max(_TABLE.c.version), 0))).scalar_one()
    writes, changes = _Writes(), list[Change]()
    for allocation, bus_us in items:
        key = (allocation.source, allocation.id)
        before = current.get(key)
        if before is not None and _same(before.allocation, allocation):
            continue
        number += 1
        known_us = max(allocation.known_us or bus_us, before.known_from_us if before else 0)
        current[key] = Version(number, known_us, allocation)
        _add(writes, current[key], before)
        changes += difference(before.allocation if before else None, allocation)
        target = current.get(corrected_by(allocation) or key)
        if target is not current[key] and target is not None:
            changes.append(whole(target.allocation))
    _write(connection, writes)
    return changes


def _same(old: Allocation, new: Allocation) -> bool:
    return _says(old) == _says(new) and (old.from_us, old.to_us, old.known_us) == (
        new.from_us,
        new.to_us,
        new.known_us,
    )


def _add(writes: _Writes, version: Version, before: Version | None) -> None:
    one = version.allocation
    if before is not None:
        writes.ended[before.number] = version.known_from_us
    writes.versions.append(
        {
            "version": version.number,
            "source": one.source,
            "id": one.id,
            "known_from_us": version.known_from_us,
            "known_to_us": None,
            "known_us": one.known_us,
            "from_us": one.from_us,
            "to_us": one.to_us,
            "kind": one.kind,
            "tenant": one.tenant,
            "project": one.project,
            "job": one.job,
            "weight": one.weight,
            "precedence": one.precedence,
            "account": one.account,
            "user_name": one.user,
            "namespace": one.namespace,
            "deleted": one.deleted,
            "shared": one.shared,
            "parts": one.parts,
        }
    )
    writes.subjects += [
        {"version": version.number, "node": node, "slot": slot}
        for node, slot in sorted(holding(one))
    ]


def _write(connection: Connection, writes: _Writes) -> None:
    if writes.versions:
        connection.execute(insert(_TABLE), writes.versions)
    if writes.subjects:
        connection.execute(insert(_SUBJECTS), writes.subjects)
    if writes.ended:
        statement = update(_TABLE).where(_TABLE.c.version == bindparam("ended"))
        connection.execute(
            statement.values(known_to_us=bindparam("at_us")),
            [{"ended": number, "at_us": at_us} for number, at_us in writes.ended.items()],
        )


def _current(
    connection: Connection, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Version]:
    found: dict[tuple[str, str], Version] = {}
    for batch in in_batches(keys):
        wanted = tuple_(_TABLE.c.source, _TABLE.c.id).in_(batch)
        for version in select_versions(connection, and_(wanted, _TABLE.c.known_to_us.is_(None))):
            found[version.allocation.source, version.allocation.id] = version
    return found


def select_versions(connection: Connection, where: ColumnElement[bool]) -> list[Version]:
    """The versions that a condition on `allocations` chooses, with what they hold."""
    held: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    joined = (
        select(_SUBJECTS.c.version, _SUBJECTS.c.node, _SUBJECTS.c.slot).join(_TABLE).where(where)
    )
    for number, node, slot in connection.execute(joined.order_by(*_SUBJECTS.primary_key)):
        held[number][node].append(slot)
    result: list[Version] = []
    for row in connection.execute(select(_TABLE).where(where).order_by(_TABLE.c.version)):
        subjects = tuple(
            Subject(node, tuple(slots) if "" not in slots else ())
            for node, slots in held.get(row.version, {}).items()
        )
        allocation = Allocation(
            row.source,
            row.id,
            row.tenant,
            row.project,
            row.job,
            subjects,
            row.from_us,
            row.to_us,
            kind=row.kind,
            known_us=row.known_us,
            weight=row.weight,
            precedence=row.precedence,
            account=row.account,
            user=row.user_name,
            namespace=row.namespace,
            deleted=row.deleted,
            shared=row.shared,
            parts=row.parts,
        )
        result.append(Version(row.version, row.known_from_us, allocation))
    return result


def known_at(known_us: int | None) -> ColumnElement[bool]:
    """The versions in force as known at a time (None: now)."""
    if known_us is None:
        return _TABLE.c.known_to_us.is_(None)
    later = or_(_TABLE.c.known_to_us.is_(None), _TABLE.c.known_to_us > known_us)
    return and_(_TABLE.c.known_from_us <= known_us, later)


def holding_between(from_us: int, to_us: int) -> ColumnElement[bool]:
    """The versions that hold anything in [from_us, to_us)."""
    ends = or_(_TABLE.c.to_us.is_(None), _TABLE.c.to_us > from_us)
    return and_(_TABLE.c.deleted.is_(False), _TABLE.c.from_us < to_us, ends)


def in_force(
    connection: Connection, from_us: int, to_us: int, *, known_us: int | None = None
) -> list[Version]:
    """The versions that hold anything in [from_us, to_us), without those that are corrected."""
    where = and_(known_at(known_us), holding_between(from_us, to_us))
    corrected = corrected_keys(connection, known_us=known_us)
    return [
        version
        for version in select_versions(connection, where)
        if (version.allocation.source, version.allocation.id) not in corrected
    ]


def corrected_keys(connection: Connection, *, known_us: int | None = None) -> set[Key]:
    """The records in whose stead a correction stands."""
    mine = and_(_TABLE.c.source == CORRECTION, _TABLE.c.deleted.is_(False))
    query = select(_TABLE.c.id).where(mine, known_at(known_us))
    found = (target_of(key) for (key,) in connection.execute(query))
    return {key for key in found if key is not None}


def claims_between(
    connection: Connection,
    from_us: int,
    to_us: int,
    *,
    known_us: int | None = None,
    tenants: Tenants = NO_TENANTS,
) -> dict[str, list[Claim]]:
    """By node the claims that hold in [from_us, to_us)."""
    claims: dict[str, list[Claim]] = defaultdict(list)
    for version in in_force(connection, from_us, to_us, known_us=known_us):
        for claim in claims_of(version.allocation, tenants):
            claims[claim.node].append(claim)
    return dict(claims)


def mark_changes(connection: Connection, changes: Iterable[Change], cause: Cause) -> int | None:
    """Marks as pending all node-hours in the ledger that changes touch; returns the earliest hour."""
    table = schema.node_hours.c
    marked: set[NodeHour] = set()
    for change in changes:
        last = _NEVER if change.to_us == _NEVER else (change.to_us - 1) // HOUR_US
        for nodes in in_batches(change.nodes):
            within = and_(table.hour >= change.from_us // HOUR_US, table.hour <= last)
            query = select(table.hour, table.node).where(within, table.node.in_(nodes))
            marked.update((hour, node) for hour, node in connection.execute(query))
    add_pending(connection, sorted(marked), cause)
    return min((hour for hour, _ in marked), default=None)
