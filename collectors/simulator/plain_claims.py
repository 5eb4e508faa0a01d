"""Reads allocation records for the oracle."""

from __future__ import annotations

import json
from dataclasses import dataclass

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
    )
