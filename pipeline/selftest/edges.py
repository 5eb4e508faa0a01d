"""How much the ledger may be off where owners change: a bound that it states of itself.

Between two kept points a counter is taken as linear (docs/ledger.md, 10).  An
owner who begins or ends d seconds from the nearest of them therefore has at
most d times what the GPU can do more or less than in truth: d times the
board's power limit of energy, and d times its peak of FLOP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import parse_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.models import find_model
from collectors.contract.topics import Allocation
from pipeline.books.rows import HOUR_US
from pipeline.books.totals import day_of
from pipeline.series.port import I64, MinuteParts

_Slot = tuple[str, int]
_FIGURES = ("gflop", "energy_mj")


@dataclass(slots=True)
class Slack:
    """What a tenant's day may be off by its edges."""

    gflop: float = 0.0
    energy_mj: float = 0.0


SlackByDay = Mapping[tuple[str, str], Slack]
"""By day and tenant."""


class Edges:
    """Collects who was said to hold what, and the times of the points that were kept."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], Allocation] = {}
        self._times: dict[str, dict[_Slot, dict[int, list[I64]]]] = {
            figure: defaultdict(lambda: defaultdict(list)) for figure in _FIGURES
        }
        """By figure, slot and run (0 for energy, which goes on through runs)."""

    def tell(self, one: Allocation) -> None:
        """Takes an allocation; of each (source, id) the last one holds."""
        self._claims[one.source, one.id] = one

    def keep(self, parts: MinuteParts) -> None:
        """Takes merged minutes."""
        for figure, by_slot in self._times.items():
            span = parts.counters.get(figure)
            if span is None:
                continue
            there = np.flatnonzero(span.first != COUNTER_ABSENT)
            run = parts.run[there] if figure == "gflop" else np.zeros(len(there), np.uint64)
            node, slot = parts.node[there], parts.slot[there]
            order = np.lexsort((run, slot, node))
            keys = np.stack((node[order].astype(np.uint64), slot[order], run[order]))
            begins = np.flatnonzero(np.any(keys[:, 1:] != keys[:, :-1], axis=0)) + 1
            for rows in np.split(there[order], begins):
                if len(rows):
                    at = int(rows[0])
                    number = int(parts.run[at]) if figure == "gflop" else 0
                    times = by_slot[parts.nodes[int(parts.node[at])], int(parts.slot[at])][number]
                    times += [span.first_us[rows], span.last_us[rows]]

    def slack(self, inventory: Inventory, from_us: int, to_us: int) -> SlackByDay:
        """What every tenant's day may be off by who began or ended in [from_us, to_us), and by
        midnight."""
        zone = ZoneInfo(inventory.time_zone)
        midnights = [
            hour * HOUR_US
            for hour in range(from_us // HOUR_US + 1, to_us // HOUR_US + 1)
            if day_of(hour, zone) != day_of(hour - 1, zone)
        ]
        found: dict[tuple[str, str], Slack] = defaultdict(Slack)
        for (entry, slot), claims in self._by_slot(inventory).items():
            cuts = {cut for one in claims for cut in (one.from_us, one.to_us) if cut is not None}
            for cut in sorted({*cuts, *midnights}):
                if from_us <= cut < to_us:
                    moved = self._moved(entry, slot, cut)
                    for day, tenant in _touched(claims, cut, zone):
                        found[day, tenant].gflop += moved.gflop
                        found[day, tenant].energy_mj += moved.energy_mj
        return found

    def _by_slot(self, inventory: Inventory) -> dict[tuple[InstalledNode, int], list[Allocation]]:
        entries = {one.name: one for one in inventory.nodes}
        found: dict[tuple[InstalledNode, int], list[Allocation]] = defaultdict(list)
        for one in self._claims.values():
            for subject in one.subjects if not one.deleted else ():
                entry = entries.get(subject.node)
                if entry is not None:
                    slots = [parse_slot(text) for text in subject.slots] or entry.slots
                    for slot in slots:
                        found[entry, slot].append(one)
        return found

    def _moved(self, entry: InstalledNode, slot: int, cut_us: int) -> Slack:
        """At most so much of what a GPU did is another's, by an edge at `cut_us`."""
        model = find_model(entry.model)
        if model is None:
            return Slack()
        off_s = {
            figure: max(
                (_distance(times, cut_us) for times in by_slot[entry.name, slot].values()),
                default=0,
            )
            / 1e6
            for figure, by_slot in self._times.items()
        }
        return Slack(
            off_s["gflop"] * (model.fp16_tflops or 0.0) * 1e3,
            off_s["energy_mj"] * (model.tdp_w or 0.0) * 1e3,
        )


def _distance(times: list[I64], cut_us: int) -> int:
    """To the nearest point; 0 outside of all, where nothing is taken as linear."""
    if len(times) > 1:
        times[:] = [np.unique(np.concatenate(times))]
    points = times[0]
    at = int(np.searchsorted(points, cut_us))
    if at in (0, len(points)):
        return 0
    return min(cut_us - int(points[at - 1]), int(points[at]) - cut_us)


def _touched(
    claims: Sequence[Allocation], cut_us: int, zone: ZoneInfo
) -> Iterator[tuple[str, str]]:
    """The days of the tenants whose claims begin, end or go on at `cut_us`."""
    days = {day_of(hour, zone) for hour in (cut_us // HOUR_US, (cut_us - 1) // HOUR_US)}
    tenants = {
        one.tenant
        for one in claims
        if one.tenant and one.from_us <= cut_us and (one.to_us is None or cut_us <= one.to_us)
    }
    for day in sorted(days):
        for tenant in sorted(tenants):
            yield day, tenant
