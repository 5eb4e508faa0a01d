"""What the site's files say, version after version, and which hours a new version touches.

The books compute by one version at a time.  A new one is noted in the
transaction that marks the node-hours which it changes: where a node is
installed or stands differently, and where the file says another tenant of a
claim.  The reservations and maintenance windows of the tenants file go to the
bus from there too, as records of the source `file`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, desc, insert, select

from collectors.contract.bus import Message
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.tenants import NO_TENANTS, NameRule, Tenants
from collectors.contract.tenants_file import SOURCE, parse_tenants
from collectors.contract.topics import Allocation, dumps
from collectors.kit.toml_file import ConfigError
from pipeline.books import progress, schema, versions
from pipeline.books.acts import Act, write_act
from pipeline.books.progress import Cause
from pipeline.books.rows import HOUR_US
from pipeline.books.versions import Change

_NEVER = 2**63 - 1
SITE, TENANTS = "site", "tenants"
Timed = Sequence[tuple[int, int, Any]]
"""(from, to, what) in order, without overlaps."""


class SiteFiles(NamedTuple):
    """The inventory and the tenants file, as they are together at one moment."""

    inventory: Inventory
    tenants: Tenants = NO_TENANTS


def adopt(connection: Connection, files: SiteFiles, at_us: int, topic: str) -> int | None:
    """Notes what the files say from `at_us` on, where that is another thing than before.

    Marks the node-hours of the ledger that it touches and returns the earliest hour; what
    the tenants file holds of claims goes to `topic` through the outbox.
    """
    before = known_files(connection)
    site, tenants = _site_text(files.inventory), files.tenants.text
    new_site = _note(connection, SITE, site, at_us)
    new_tenants = _note(connection, TENANTS, tenants, at_us)
    if not new_site and not new_tenants:
        return None
    earliest: list[int | None] = []
    if before.inventory is not None and new_site:
        changes = installed_changes(before.inventory, files.inventory)
        earliest.append(_mark_installed(connection, changes))
    old = before.tenants
    named = list(named_changes(connection, old, files.tenants))
    earliest.append(versions.mark_changes(connection, named, Cause.SITE_FILES))
    if new_tenants:
        _publish(connection, old, files.tenants, at_us, topic)
    return min((hour for hour in earliest if hour is not None), default=None)


class KnownFiles(NamedTuple):
    """What the books were kept by; the inventory is None where no version is noted."""

    inventory: Inventory | None
    tenants: Tenants


def known_files(connection: Connection, known_us: int | None = None) -> KnownFiles:
    """The last versions known, now or at another time.

    A tenants file that an older program took and this one refuses counts as none.
    """
    site, text = _last(connection, SITE, known_us), _last(connection, TENANTS, known_us)
    inventory = None if site is None else msgspec.json.decode(site, type=Inventory)
    zone = "UTC" if inventory is None else inventory.time_zone
    try:
        tenants = parse_tenants(Path("tenants.toml"), text, None, zone) if text else NO_TENANTS
    except ConfigError:
        tenants = NO_TENANTS
    return KnownFiles(inventory, tenants)


def _site_text(inventory: Inventory) -> str:
    return msgspec.json.encode(inventory).decode()


def _last(connection: Connection, kind: str, known_us: int | None = None) -> str | None:
    table = schema.site_files.c
    query = select(table.text).where(table.kind == kind).order_by(desc(table.number)).limit(1)
    if known_us is not None:
        query = query.where(table.known_from_us <= known_us)
    return connection.execute(query).scalar()


def _note(connection: Connection, kind: str, text: str, at_us: int) -> bool:
    """Writes a version where it differs from the last; no file and no version are the same."""
    if (_last(connection, kind) or "") == text:
        return False
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    row = {"kind": kind, "sha256": sha256, "known_from_us": at_us, "text": text}
    connection.execute(insert(schema.site_files).values(row))
    return True


def differing(old: Timed, new: Timed) -> Iterator[tuple[int, int]]:
    """The times in which two timelines say different things, in order; nothing said is None."""
    cuts = sorted({at for start, end, _ in (*old, *new) for at in (start, end)})
    open_from: int | None = None
    for start, end in pairwise(cuts):
        if _said(old, start) != _said(new, start):
            open_from = start if open_from is None else open_from
            if end == cuts[-1]:
                yield open_from, end
        elif open_from is not None:
            yield open_from, start
            open_from = None


def _said(timed: Timed, at_us: int) -> Any:
    return next((what for start, end, what in timed if start <= at_us < end), None)


def installed_changes(old: Inventory, new: Inventory) -> list[Change]:
    """Where nodes are installed, or stand, differently."""
    before, after = _by_node(old.nodes), _by_node(new.nodes)
    changes: list[Change] = []
    for name in sorted({*before, *after}):
        was, now = before.get(name, []), after.get(name, [])
        if was != now:
            changes += [Change(frozenset([name]), *span) for span in differing(was, now)]
    return changes


def _by_node(nodes: Iterable[InstalledNode]) -> dict[str, list[tuple[int, int, Any]]]:
    found: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)
    for one in sorted(nodes, key=lambda node: node.from_us):
        what = (frozenset(one.slots), one.model, one.hall, one.pflops_per_gpu)
        found[one.name].append((one.from_us, _NEVER if one.to_us is None else one.to_us, what))
    return found


def _mark_installed(connection: Connection, changes: Iterable[Change]) -> int | None:
    """Marks all hours that the ledger has, also those in which a node is not there yet."""
    hours = progress.ledger_hours(connection)
    marked: set[progress.NodeHour] = set()
    for change in changes:
        first = max(hours.start, change.from_us // HOUR_US)
        last = min(hours.stop - 1, (change.to_us - 1) // HOUR_US)
        marked.update((hour, node) for node in change.nodes for hour in range(first, last + 1))
    progress.add_pending(connection, sorted(marked), Cause.SITE_FILES)
    return min((hour for hour, _ in marked), default=None)


def named_changes(connection: Connection, old: Tenants, new: Tenants) -> Iterator[Change]:
    """Where another tenant or project is said of claims that the books have."""
    names = _names_changed(old.names, new.names)
    for column, wanted in names.items():
        for batch in progress.in_batches(sorted(wanted)):
            mine = schema.allocations.c[column].in_(batch)
            where = and_(mine, versions.known_at(None), schema.allocations.c.deleted.is_(False))
            for version in versions.select_versions(connection, where):
                one = version.allocation
                nodes = frozenset(subject.node for subject in one.subjects)
                for start, end in differing(_whose(old, one), _whose(new, one)):
                    yield Change(nodes, start, end)


def _names_changed(old: Sequence[NameRule], new: Sequence[NameRule]) -> Mapping[str, set[str]]:
    """By column of `allocations` the names of which the files say different things."""
    columns = {"account": "account", "namespace": "namespace", "user": "user_name"}
    # Where a rule stands in the file makes no difference.
    moved = {one._replace(line=0) for one in old} ^ {one._replace(line=0) for one in new}
    found: dict[str, set[str]] = defaultdict(set)
    for rule in moved:
        found[columns[rule.by]].add(rule.name)
    return found


def _whose(tenants: Tenants, claim: Allocation) -> Timed:
    return [
        (start, end, None if rule is None else (rule.tenant, rule.project))
        for start, end, rule in tenants.stretches(claim)
    ]


def _publish(connection: Connection, old: Tenants, new: Tenants, at_us: int, topic: str) -> None:
    """All claims of the file that are new or changed, and the end of those that it has no more.

    What the version before said may still be on its way; beside it the books' own are looked
    at, in case that version cannot be read any more.
    """
    own = and_(
        schema.allocations.c.source == SOURCE,
        schema.allocations.c.deleted.is_(False),
        versions.known_at(None),
    )
    found = (one.allocation for one in versions.select_versions(connection, own))
    said = {one.id: one for one in (*found, *old.claims)}
    kept = {one.id: one for one in new.claims}
    gone = [msgspec.structs.replace(said[key], deleted=True) for key in said.keys() - kept.keys()]
    told = [one for key, one in kept.items() if said.get(key) != one]
    if not gone and not told:
        return
    messages = [Message(topic, one.key, dumps(one)) for one in (*told, *gone)]
    detail = {"claims": len(told), "removed": sorted(one.id for one in gone)}
    write_act(connection, Act("file", "tenants_file.claims", TENANTS, detail, messages), at_us)
