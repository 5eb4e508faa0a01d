"""From a place in a layout to who is meant, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from collectors.contract.alerts import Subject
from collectors.contract.identity import slot_text
from pipeline.watch.alerts.inputs import Tick
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.layout import FleetLayout


class Subjects:
    """Subjects of one layout by scope and index."""

    def __init__(self, layout: FleetLayout) -> None:
        self.layout = layout

    def subject(self, rule: Rule, index: int, owners: Sequence[str]) -> Subject:
        """Who is meant by an index of a rule's scope."""
        if rule.scope == "tenant":
            return Subject("tenant", owners[index], tenant=owners[index])
        if rule.scope == "pipeline":
            return Subject("pipeline", rule.when.args[0])
        return self._place(rule.scope, index)

    def _place(self, scope: str, index: int) -> Subject:
        layout = self.layout
        if scope in ("gpu", "node"):
            node = layout.nodes[int(layout.node[index]) if scope == "gpu" else index]
            where = (node.hall, node.rack, node.name)
            if scope == "node":
                return Subject(scope, node.name, *where)
            return Subject(scope, layout.short[index], *where, slot_text(layout.places[index][1]))
        if scope == "rack":
            hall, rack = layout.racks[index]
            return Subject(scope, f"{hall}/{rack}", hall, rack)
        if scope == "hall":
            return Subject(scope, layout.halls[index], layout.halls[index])
        return Subject(scope, layout.inventory.name)

    def key(self, rule: Rule, index: int, owners: Sequence[str]) -> str:
        """What stays the same over layouts, names of places moved to another rack included."""
        subject = self.subject(rule, index, owners)
        return f"{subject.node} {subject.slot}" if rule.scope == "gpu" else subject.name

    def index(self, rule: Rule, key: str, owners: Sequence[str]) -> int | None:
        """The index of a key; None where the layout has it no more."""
        if rule.scope in ("pipeline", "site"):
            return 0
        if rule.scope == "tenant":
            return owners.index(key) if key in owners else None
        return self._known[rule.scope].get(key)

    @cached_property
    def _known(self) -> dict[str, dict[str, int]]:
        layout = self.layout
        names = {
            "gpu": [f"{node} {slot_text(slot)}" for node, slot in layout.places],
            "node": [node.name for node in layout.nodes],
            "rack": [f"{hall}/{rack}" for hall, rack in layout.racks],
            "hall": layout.halls,
        }
        return {scope: {name: at for at, name in enumerate(some)} for scope, some in names.items()}

    def gpus(self, rule: Rule, index: int, tick: Tick) -> NDArray[np.intp]:
        """The positions that an alert touches."""
        if rule.scope == "gpu":
            return np.array([index], np.intp)
        if rule.scope == "pipeline":
            return np.zeros(0, np.intp)
        if rule.scope == "tenant":
            return np.flatnonzero(tick.owner == index)
        return np.flatnonzero(self._of[rule.scope] == index)

    @cached_property
    def _of(self) -> dict[str, NDArray[np.int32]]:
        """Each position's node, rack, hall and site."""
        node = self.layout.node
        rack = self.layout.rack_of_node[node]
        return {
            "node": node,
            "rack": rack,
            "hall": self.layout.hall_of_rack[rack],
            "site": np.zeros(len(node), np.int32),
        }


def fingerprint(rule: str, scope: str, key: str) -> str:
    """The same for the same rule and subject, for ever: 16 hexadecimal digits."""
    text = "\0".join((rule, scope, key))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
