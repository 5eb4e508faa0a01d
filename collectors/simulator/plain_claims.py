"""Reads allocation records for the oracle."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from collectors.contract.identity import parse_slot


@dataclass(frozen=True, slots=True)
class Claim:
    """The last word on one claim; `subjects` maps a node to its slots, None for all of them."""

    source: str
    id: str
    kind: str
    owner: tuple[str, str, str]
    """Tenant, project, job."""
    from_us: int
    to_us: int | None
    deleted: bool
    precedence: int
    subjects: dict[str, frozenset[int] | None]
    shared: bool = False
    weight: int = 1
    parts: int = 0
    names: tuple[str, str, str] = ("", "", "")
    """Account, namespace, user."""
    held_from_us: int | None = None
    """Where only a part of its time is meant: since when; its rank goes by `from_us` all the same."""

    @property
    def begins_us(self) -> int:
        """When it begins to hold."""
        return self.from_us if self.held_from_us is None else self.held_from_us

    def holds(self, node: str, slot: int) -> bool:
        """Whether a subject names the slot, and the claim is anybody's at all."""
        anonymous = self.kind != "maintenance" and self.owner[0] == ""
        if anonymous or node not in self.subjects:
            return False
        slots = self.subjects[node]
        return slots is None or slot in slots


def read_claim(value: bytes) -> Claim:
    """Reads a record of the allocation topic; raises ValueError when it is none."""
    told = json.loads(value)
    subjects: dict[str, frozenset[int] | None] = {}
    for subject in told["subjects"]:
        slots = subject.get("slots") or None
        held = None if slots is None else frozenset(parse_slot(slot) for slot in slots)
        before = subjects.get(subject["node"], frozenset[int]())
        subjects[subject["node"]] = None if held is None or before is None else held | before
    return Claim(
        source=told["source"],
        id=told["id"],
        kind=told.get("kind", "job"),
        owner=(told["tenant"], told["project"], told["job"]),
        from_us=told["from_us"],
        to_us=told.get("to_us"),
        deleted=told.get("deleted", False),
        precedence=told.get("precedence", 0),
        subjects=subjects,
        shared=told.get("shared", False),
        weight=max(1, told.get("weight", 1)),
        parts=told.get("parts", 0),
        names=(told.get("account", ""), told.get("namespace", ""), told.get("user", "")),
    )


def corrected(claims: Iterable[Claim]) -> set[tuple[str, str]]:
    """Source and id of every claim in whose stead a correction stands: its id names them."""
    out: set[tuple[str, str]] = set()
    for claim in claims:
        if claim.source == "correction" and not claim.deleted and " " in claim.id:
            source, key = claim.id.split(" ", 1)
            out.add((source, key))
    return out


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of a tenants file: a name of one of three kinds, whose it is, and from when to when."""

    kind: int
    """0 account, 1 namespace, 2 user: the lower is the stronger."""
    name: str
    cluster: str
    owner: tuple[str, str]
    from_us: int
    to_us: int | None


def read_rules(text: str, time_zone: str) -> list[Rule]:
    """The names of a tenants file; dates are midnight in the zone."""
    out: list[Rule] = []
    for table in tomllib.loads(text).get("names", []):
        owner = (table["tenant"], table.get("project", ""))
        bounds = [_moment(table.get(key), time_zone) for key in ("from", "to")]
        for kind, key in enumerate(("accounts", "namespaces", "users")):
            given = table.get(key, [])
            for name in [given] if isinstance(given, str) else given:
                cluster = table.get("cluster", "") if kind == 0 else ""
                out.append(Rule(kind, name, cluster, owner, bounds[0] or 0, bounds[1]))
    return out


def _moment(value: Any, time_zone: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=ZoneInfo(time_zone))
    elif value.tzinfo is None:
        value = value.replace(tzinfo=ZoneInfo(time_zone))
    since = value - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


def named(claim: Claim, rules: Sequence[Rule]) -> list[Claim]:
    """A claim as one for each time in which the same line, or none, says whose it is."""
    own = claim.owner[0]
    if claim.to_us is not None and claim.to_us <= claim.from_us:
        return []
    if claim.kind == "maintenance" or (own and own not in claim.names):
        return [claim]
    mine = [rule for rule in rules if claim.names[rule.kind] == rule.name and _of(claim, rule)]
    mine.sort(key=lambda rule: (rule.kind, not rule.cluster))
    cuts = {claim.from_us}
    for rule in mine:
        cuts |= {at for at in (rule.from_us, rule.to_us) if at is not None and at > claim.from_us}
    starts = sorted(at for at in cuts if claim.to_us is None or at < claim.to_us)
    out: list[Claim] = []
    for start, end in zip(starts, [*starts[1:], claim.to_us], strict=True):
        owner = claim.owner
        for rule in reversed(mine):
            if rule.from_us <= start and (rule.to_us is None or start < rule.to_us):
                owner = (rule.owner[0], rule.owner[1] or claim.owner[1], claim.owner[2])
        out.append(replace(claim, owner=owner, held_from_us=start, to_us=end))
    return out


def _of(claim: Claim, rule: Rule) -> bool:
    return not rule.cluster or claim.source == f"slurm:{rule.cluster}"
