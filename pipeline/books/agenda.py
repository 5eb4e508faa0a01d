"""Which node-hours are to be computed, and up to which time: pure decisions on small tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from collectors.contract.inventory import Inventory
from pipeline.books.progress import NodeHour
from pipeline.books.rows import HOUR_US


def roster(inventory: Inventory, hour: int) -> frozenset[str]:
    """The nodes installed at any time in an hour."""
    low, high = hour * HOUR_US, (hour + 1) * HOUR_US
    return frozenset(
        node.name
        for node in inventory.nodes
        if node.from_us < high and (node.to_us is None or node.to_us > low)
    )


def reached_us(clocks: Mapping[int, tuple[int, int]], ends: Mapping[int, int] | None) -> int | None:
    """The bus time that all partitions have passed; None while one cannot be told.

    `clocks` are (offset, bus time) as announced by partition, `ends` the
    offsets after the last record of every partition (None: all announce).  A
    partition without a record left to write is as far as the farthest.
    """
    if not clocks:
        return None
    latest_us = max(bus_us for _, bus_us in clocks.values())
    reached = latest_us
    for number in clocks if ends is None else ends:
        offset, bus_us = clocks.get(number, (0, None))
        if ends is not None and offset >= ends[number]:
            continue
        if bus_us is None:
            return None
        reached = min(reached, bus_us)
    return reached


@dataclass(slots=True)
class Agenda:
    """Nodes by hour: those of whose points something changed, and those that only go on in time."""

    changed: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    extended: dict[int, set[str]] = field(default_factory=dict[int, set[str]])

    def hours(self) -> list[int]:
        """All hours with something to do, in order."""
        return sorted({*self.changed, *self.extended})

    def __len__(self) -> int:
        return sum(len(nodes) for nodes in (*self.changed.values(), *self.extended.values()))


def plan(
    inventory: Inventory,
    pending: Iterable[NodeHour],
    stored: Mapping[NodeHour, int],
    hours: range,
    until_us: int,
) -> Agenda:
    """What is to be done once the books may reach up to `until_us`.

    `stored` says up to when the ledger has the node-hours of `hours`, the
    hours that are not complete yet.  Every node installed has a row in each,
    also one that never reported.
    """
    agenda = Agenda()
    rosters = {hour: roster(inventory, hour) for hour in hours}
    for hour, node in pending:
        # Of a node that is not installed then, or not at all, too: a counter's
        # segment from there may end in time that counts, or will once the
        # inventory has it; and what the ledger has of it must go.
        if hour * HOUR_US < until_us:
            agenda.changed.setdefault(hour, set()).add(node)
    for hour in hours:
        goal_us = min((hour + 1) * HOUR_US, until_us)
        if goal_us <= hour * HOUR_US:
            continue
        behind = {node for node in rosters[hour] if stored.get((hour, node), 0) < goal_us}
        if behind := behind - agenda.changed.get(hour, set()):
            agenda.extended[hour] = behind
    return agenda
