"""Who owned a slot at a time, by which record of which source, and what lost against it.

Everything as it was known at a time: versions of allocations, the tenants
file, the inventory; and what the ledger says of the hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select

from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.tenants import NO_TENANTS, NameRule, Tenants
from collectors.contract.topics import PRECEDENCE, Allocation
from pipeline.books import schema, site_files, versions
from pipeline.books.claims import Claim, Holder, Sharers, claims_of, ownership
from pipeline.books.corrections import CORRECTION, correction_id
from pipeline.books.frozen import frozen_within
from pipeline.books.rows import HOUR_US, STATES

_NAMES = {value: name for name, value in PRECEDENCE.items()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One record that names the slot at the time, and what came of it."""

    version: versions.Version
    verdict: str
    """`holds`, `shares`, `loses`, `nobody` or `corrected`."""
    reason: str
    """In words, by which rule."""
    rule: NameRule | None = None
    """The line of the tenants file that says whose it is."""
    owner: Holder | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """The answer; `owner` is None where the slot is not installed."""

    node: str
    slot: int
    at_us: int
    known_us: int | None
    installed: InstalledNode | None
    owner: Holder | None
    verdicts: Sequence[Verdict]
    ledger: Sequence[dict[str, Any]]
    """The rows of the slot in the hour."""
    hour: dict[str, Any] | None
    """Until when the hour is computed, when that was, and whether it is final."""


def why(
    connection: Connection,
    inventory: Inventory,
    node: str,
    slot: int,
    at_us: int,
    known_us: int | None = None,
) -> Why:
    """Explains a moment.  `inventory` counts where the books have noted none."""
    files = site_files.known_files(connection, known_us)
    site = files.inventory or inventory
    entry = next((one for one in site.at(at_us) if one.name == node and slot in one.slots), None)
    found = _naming(connection, node, slot, at_us, known_us)
    corrected = versions.corrected_keys(connection, known_us=known_us)
    there = [one for one in found if _key(one.allocation) not in corrected]
    claims = {
        one.number: claim
        for one in there
        if (claim := _claim(one, files.tenants, at_us, node, slot))
    }
    piece = ownership(claims.values(), slot, at_us, at_us + 1)[0]
    best = max(claims.values(), key=lambda claim: claim.rank, default=None)
    verdicts = [
        _verdict(
            one, claims.get(one.number), best, files.tenants, at_us, corrected=one not in there
        )
        for one in found
    ]
    order = ("holds", "shares", "loses", "nobody", "corrected")
    verdicts.sort(key=lambda one: (order.index(one.verdict), -one.version.number))
    return Why(
        node, slot, at_us, known_us, entry, None if entry is None else piece.owner, verdicts,
        _rows(connection, node, slot, at_us), _hour(connection, node, at_us),
    )  # fmt: skip


def _key(one: Allocation) -> tuple[str, str]:
    return one.source, one.id


def _naming(
    connection: Connection, node: str, slot: int, at_us: int, known_us: int | None
) -> list[versions.Version]:
    """The versions known then whose time and subjects have the slot at the moment."""
    subjects = schema.allocation_subjects.c
    named = select(subjects.version).where(subjects.node == node)
    where = and_(
        versions.known_at(known_us),
        versions.holding_between(at_us, at_us + 1),
        schema.allocations.c.version.in_(named),
    )
    text = slot_text(slot)
    return [
        version
        for version in versions.select_versions(connection, where)
        if any(
            one.node == node and (not one.slots or text in one.slots)
            for one in version.allocation.subjects
        )
    ]


def _claim(
    version: versions.Version, tenants: Tenants, at_us: int, node: str, slot: int
) -> Claim | None:
    for claim in claims_of(version.allocation, tenants):
        if claim.node == node and claim.holds(slot) and claim.from_us <= at_us < claim.to_us:
            return claim
    return None


def _verdict(
    version: versions.Version,
    claim: Claim | None,
    best: Claim | None,
    tenants: Tenants,
    at_us: int,
    *,
    corrected: bool,
) -> Verdict:
    one = version.allocation
    rule = next((rule for start, end, rule in tenants.stretches(one) if start <= at_us < end), None)
    owner = None if claim is None else claim.owner
    if corrected:
        stands = correction_id(one.source, one.id)
        text = f"a correction stands in its stead: {CORRECTION} {stands!r}"
        return Verdict(version, "corrected", text, rule)
    if claim is None or best is None:
        return Verdict(version, "nobody", _unnamed(one, tenants), rule)
    if claim.rank == best.rank:
        shared = best.share is not None
        text = (
            "it has the greatest rank" + (", and shares the GPU" if shared else "") + _guessed(one)
        )
        return Verdict(version, "shares" if shared else "holds", text, rule, owner)
    together = claim.rank.precedence == best.rank.precedence and not best.rank.maintenance
    if best.share is not None and claim.share is not None and together:
        text = "it shares the GPU with the others of its precedence"
        return Verdict(version, "shares", text, rule, owner)
    return Verdict(version, "loses", _beaten(claim, best), rule, owner)


def _unnamed(one: Allocation, tenants: Tenants) -> str:
    names = [
        f"{by} {name!r}" for by in ("account", "namespace", "user") if (name := getattr(one, by))
    ]
    if not names:
        return "it names no tenant, account, namespace or user"
    said = "no line of the tenants file names" if tenants != NO_TENANTS else "no tenants file names"
    return f"it names no tenant, and {said} {' or '.join(names)} at that time"


def _guessed(one: Allocation) -> str:
    if one.precedence != PRECEDENCE["guess"]:
        return ""
    return "; its source knows how many GPUs of the node the job had, and guesses which"


def _beaten(claim: Claim, best: Claim) -> str:
    """By which rule the best goes before."""
    mine, first = claim.rank, best.rank
    if first.maintenance and not mine.maintenance:
        return "maintenance goes before every other claim"
    if first.precedence != mine.precedence:
        return f"{_named(first.precedence)} goes before {_named(mine.precedence)}"
    if first.from_us != mine.from_us:
        return "of equal precedence, the claim that began later holds"
    if first.source != mine.source:
        return "of equal precedence and start, the source later in the alphabet holds"
    return "of equal precedence, start and source, the greater id holds"


def _named(precedence: int) -> str:
    words = {"static": "a static list", "guess": "a guess of which GPU it was",
             "process": "what processes show", "scheduler": "a scheduler's own word",
             "accounting": "a scheduler's accounting"}  # fmt: skip
    name = words.get(_NAMES.get(precedence, ""), "a claim")
    return f"{name} (precedence {precedence})"


def _rows(connection: Connection, node: str, slot: int, at_us: int) -> list[dict[str, Any]]:
    table = schema.hours.c
    names = ("owner_kind", "tenant", "project", "job", "origin", *STATES, "energy_mj", "gflop")
    where = (table.hour == at_us // HOUR_US, table.node == node, table.slot == slot_text(slot))
    query = select(*(table[name] for name in names)).where(*where)
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query)]


def _hour(connection: Connection, node: str, at_us: int) -> dict[str, Any] | None:
    table, hour = schema.node_hours.c, at_us // HOUR_US
    query = select(table.until_us, table.final, table.computed_us).where(
        table.hour == hour, table.node == node
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    month = next((one.month for one in frozen_within(connection, range(hour, hour + 1))), None)
    return {**dict(zip(("until_us", "final", "computed_us"), row, strict=True)), "frozen": month}


def shares_of(owner: Holder) -> list[dict[str, Any]]:
    """Those who share: source, id, weight, of how many parts, and whose each is by the tenants
    file; none of a slot that one holds."""
    if not isinstance(owner, Sharers):
        return []
    return [
        {
            "source": one.source, "id": one.id, "weight": one.weight, "parts": owner.parts,
            **one.owner._asdict(),
        }
        for one in owner.shares
    ]  # fmt: skip
