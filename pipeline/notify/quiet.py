"""Whether people want to hear of an incident now: silences and maintenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from collectors.contract.alerts import Control, Incident, Member, Subject
from collectors.contract.inventory import Inventory
from collectors.contract.topics import Allocation

SILENCE_FIELDS = (
    "rule", "severity", "family", "cause", "incident", "tenant",
    "scope", "place", "hall", "rack", "node", "slot",
)  # fmt: skip
"""What a silence may name."""


class Quiet:
    """Silences and maintenance windows as the log has them."""

    def __init__(self) -> None:
        self._silences: dict[str, Control] = {}
        self._upkeep: dict[bytes, Allocation] = {}

    def take_control(self, control: Control) -> None:
        """The last word on a control."""
        if control.kind != "silence":
            return
        if control.deleted:
            self._silences.pop(control.id, None)
        else:
            self._silences[control.id] = control

    def take_allocation(self, allocation: Allocation) -> None:
        """The last word on an allocation."""
        if allocation.kind == "maintenance" and not allocation.deleted:
            self._upkeep[allocation.key] = allocation
        else:
            self._upkeep.pop(allocation.key, None)

    def forget(self, now_us: int, keep_us: int = 86_400_000_000) -> None:
        """Drops what ended long ago."""
        before_us = now_us - keep_us
        for name, one in list(self._silences.items()):
            if one.until_us is not None and one.until_us < before_us:
                del self._silences[name]
        for key, upkeep in list(self._upkeep.items()):
            if upkeep.to_us is not None and upkeep.to_us < before_us:
                del self._upkeep[key]

    def why(self, incident: Incident, now_us: int, inventory: Inventory) -> str | None:
        """`silenced` or `maintenance` where nobody is to be called now, else None."""
        members = incident.members
        if not members:
            return None
        silences = [one for one in self._silences.values() if _holds(one, now_us)]
        if silences and all(
            any(_matches(one.match, incident, member) for one in silences) for member in members
        ):
            return "silenced"
        if self._upkeep and self._all_in_upkeep(incident, now_us, inventory):
            return "maintenance"
        return None

    def _all_in_upkeep(self, incident: Incident, now_us: int, inventory: Inventory) -> bool:
        held: dict[str, set[str]] = {}
        for one in self._upkeep.values():
            if one.from_us <= now_us and (one.to_us is None or now_us < one.to_us):
                for subject in one.subjects:
                    held.setdefault(subject.node, set()).update(subject.slots or ("",))
        places = [_nodes(member.subject, inventory, now_us) for member in incident.members]
        return bool(held) and all(
            place and all(_covered(held, node, slot) for node, slot in place) for place in places
        )


def _covered(held: Mapping[str, set[str]], node: str, slot: str) -> bool:
    slots = held.get(node, set())
    return "" in slots or (slot != "" and slot in slots)


def _nodes(subject: Subject, inventory: Inventory, now_us: int) -> list[tuple[str, str]]:
    """(node, slot) pairs of a place; an empty slot is all of a node, none where it is no place."""
    if subject.node:
        return [(subject.node, subject.slot)]
    if subject.scope not in {"rack", "hall"}:
        return []
    return [
        (node.name, "")
        for node in inventory.at(now_us)
        if node.hall == subject.hall and subject.rack in {"", node.rack}
    ]


def _holds(one: Control, now_us: int) -> bool:
    return one.from_us <= now_us and (one.until_us is None or now_us < one.until_us)


def _matches(match: Mapping[str, str], incident: Incident, member: Member) -> bool:
    """Whether a member is meant; a tenant's name must fit all whom the incident hits."""
    return bool(match) and all(
        any_text and all(fnmatchcase(text, pattern) for text in any_text)
        for pattern, any_text in ((p, list(_texts(n, incident, member))) for n, p in match.items())
    )


def _texts(name: str, incident: Incident, member: Member) -> Iterator[str]:
    if name == "tenant":
        yield from incident.tenants
        return
    subject = member.subject
    known = {
        "rule": member.rule, "severity": member.severity, "family": incident.family,
        "cause": incident.cause, "incident": incident.id, "scope": subject.scope,
        "place": subject.name, "hall": subject.hall, "rack": subject.rack,
        "node": subject.node, "slot": subject.slot,
    }  # fmt: skip
    if name in known:
        yield known[name]
