"""`tenants.toml`: who is who, as people write it, read with every slip named.

[[tenants]]
id = "north-university"
title = "North University"
kind = "university"
projects = ["genomics", "climate"]

[[names]]
tenant = "north-university"
project = "genomics"
accounts = ["nu-gen"]            # also cluster, namespaces, users
from = 2026-01-01

[[reservations]]
id = "genomics-winter"
tenant = "north-university"
project = "genomics"
nodes = "a03n[01-02]"            # slots = ["0000:1b:00.0"]; slices = 2 of a GPU's seven
from = 2026-12-01
to = 2027-01-01

[[maintenance]]
id = "coolant-a03"
nodes = "a03n[01-08]"
from = 2026-12-10T08:00:00
to = 2026-12-10T12:00:00
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledSlots, Inventory
from collectors.contract.site_toml import TomlEntry, TomlReader
from collectors.contract.tenants import NameRule, Tenant, Tenants, overlapping
from collectors.contract.topics import PRECEDENCE, Allocation, Subject
from collectors.kit.toml_file import closest, parse_toml, read_text

SOURCE = "file"
"""Of the claims that the file makes."""
MIG_SLICES = 7
TENANT_KEYS = ("id", "title", "kind", "contact", "projects")
NAME_KEYS = (
    "tenant", "project", "accounts", "cluster", "namespaces", "users", "from", "to",
)  # fmt: skip
RESERVATION_KEYS = ("id", "tenant", "project", "nodes", "slots", "slices", "from", "to")
MAINTENANCE_KEYS = ("id", "nodes", "slots", "from", "to")
_NAMED = {"accounts": "account", "namespaces": "namespace", "users": "user"}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_tenants(path: Path, inventory: Inventory) -> Tenants:
    """Reads the tenants file of a site.  Raises ConfigError with file, line, key and what to write."""
    return parse_tenants(path, read_text(path), inventory)


def parse_tenants(path: Path, text: str, inventory: Inventory | None, zone: str = "") -> Tenants:
    """Reads a tenants file's text; `path` is for messages.  Raises ConfigError.

    Without an inventory nodes are not looked up, and `zone` says what days are.
    """
    table = parse_toml(path, text)
    reader = TomlReader(path, text)
    reader.only(table, ("tenants", "names", "reservations", "maintenance"), 1)
    days = ZoneInfo(zone if inventory is None else inventory.time_zone)
    tenants = [_tenant(entry) for entry in reader.entries(table, "tenants", TENANT_KEYS, days)]
    known: dict[str, Tenant] = {}
    for one in tenants:
        if one.id in known:
            raise reader.error(
                reader.line_within("id", one.line),
                "id",
                f"{one.id!r} stands in line {known[one.id].line} too",
            )
        known[one.id] = one
    names = [
        rule
        for entry in reader.entries(table, "names", NAME_KEYS, days)
        for rule in _rules(entry, known)
    ]
    _refuse_overlap(reader, names)
    places = None if inventory is None else InstalledSlots(inventory)
    held = [
        _reservation(entry, known, places)
        for entry in reader.entries(table, "reservations", RESERVATION_KEYS, days)
    ]
    held += [
        _window(entry, places)
        for entry in reader.entries(table, "maintenance", MAINTENANCE_KEYS, days)
    ]
    _refuse_twins(reader, held)
    claims = tuple(claim for _, claim in held)
    return Tenants(tuple(tenants), tuple(names), claims, text, str(path))


def _id(entry: TomlEntry) -> str:
    text = entry.text("id")
    if not _ID.fullmatch(text):
        raise entry.error("id", f"write letters, digits, '.', '_' and '-', not {text!r}")
    return text


def _tenant(entry: TomlEntry) -> Tenant:
    key = _id(entry)
    projects = tuple(entry.texts("projects"))
    return Tenant(
        key, entry.text("title", key), entry.text("kind", ""), entry.text("contact", ""),
        projects, entry.line,
    )  # fmt: skip


def _whose(entry: TomlEntry, known: dict[str, Tenant]) -> tuple[str, str]:
    """The tenant and project that an entry names; both must be there."""
    tenant = entry.text("tenant")
    if tenant not in known:
        raise entry.error("tenant", f"no such tenant: {tenant!r}; {closest(tenant, list(known))}")
    projects = known[tenant].projects
    project = entry.text("project", "")
    if project not in projects and (project or projects):
        hint = closest(project, list(projects)) if projects else f"{tenant} has none: leave it out"
        text = (
            f"no such project of {tenant}: {project!r}; {hint}"
            if project
            else f"is missing; {hint}"
        )
        raise entry.error("project", text)
    return tenant, project


def _rules(entry: TomlEntry, known: dict[str, Tenant]) -> Iterator[NameRule]:
    tenant, project = _whose(entry, known)
    from_us, to_us = entry.between()
    cluster = entry.text("cluster", "")
    if cluster and not entry.texts("accounts"):
        raise entry.error("cluster", 'is of accounts: write accounts = ["…"] beside it')
    count = 0
    for key, by in _NAMED.items():
        for name in entry.texts(key):
            count += 1
            of = cluster if by == "account" else ""
            yield NameRule(by, name, of, tenant, project, from_us, to_us, entry.line)
    if not count:
        raise entry.error("accounts", 'write accounts, namespaces or users = ["…"]')


def _refuse_overlap(reader: TomlReader, names: list[NameRule]) -> None:
    pair = overlapping(names)
    if pair is None:
        return
    first, second = sorted(pair, key=lambda one: one.line)
    text = (
        f"{second.by} {second.name!r} stands for {first.tenant}/{first.project} in the entry of"
        f" line {first.line} too, for the same time; give one of them a `to` no later than the"
        " other's `from`"
    )
    key = f"{second.by}s"
    raise reader.error(reader.line_within(key, second.line), key, text)


def _refuse_twins(reader: TomlReader, held: list[tuple[int, Allocation]]) -> None:
    lines: dict[str, int] = {}
    for line, claim in held:
        if claim.id in lines:
            text = (
                f"{claim.id!r} stands in the entry of line {lines[claim.id]} too; give it another"
            )
            raise reader.error(reader.line_within("id", line), "id", text)
        lines[claim.id] = line


def _subjects(entry: TomlEntry, places: InstalledSlots | None) -> tuple[Subject, ...]:
    names, slots = entry.nodes("nodes"), _slots(entry)
    wrong = None if places is None else places.wrong(names, slots)
    if wrong is not None:
        raise entry.error(*wrong)
    texts = tuple(slot_text(slot) for slot in slots)
    return tuple(Subject(name, texts) for name in names)


def _slots(entry: TomlEntry) -> list[int]:
    try:
        return [parse_slot(text) for text in entry.texts("slots")]
    except ValueError as error:
        raise entry.error("slots", str(error)) from error


def _slices(entry: TomlEntry) -> int | None:
    given: Any = entry.table.get("slices")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= MIG_SLICES:
        raise entry.error("slices", f"write a whole number from 1 to {MIG_SLICES}, not {given!r}")
    return given


def _reservation(
    entry: TomlEntry, known: dict[str, Tenant], places: InstalledSlots | None
) -> tuple[int, Allocation]:
    tenant, project = _whose(entry, known)
    from_us, to_us = entry.between()
    slices = _slices(entry)
    claim = Allocation(
        SOURCE, _id(entry), tenant, project, "", _subjects(entry, places), from_us, to_us,
        kind="reservation", precedence=PRECEDENCE["static"], shared=slices is not None,
        weight=slices or 1, parts=0 if slices is None else MIG_SLICES,
    )  # fmt: skip
    return entry.line, claim


def _window(entry: TomlEntry, places: InstalledSlots | None) -> tuple[int, Allocation]:
    from_us, to_us = entry.between()
    if "from" not in entry.table:
        raise entry.error("from", "is missing; write when it begins")
    subjects = _subjects(entry, places)
    claim = Allocation(SOURCE, _id(entry), "", "", "", subjects, from_us, to_us, kind="maintenance")
    return entry.line, claim
