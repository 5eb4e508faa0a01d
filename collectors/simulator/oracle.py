"""What the records that were sent can say: the hour ledger in slow, plain Python.

It shares no code with the pipeline and knows nothing of the physics.  The
rules are the design's *Hour*: kept points are the first and last of a slot's
minute, run and label epoch; between neighbouring ones a counter is linear; all
arithmetic is in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from collectors.contract.inventory import Inventory
from collectors.contract.wire import BrokenRecordError
from collectors.simulator.ledger import HOUR_US, SlotLedger, owner_timeline
from collectors.simulator.observable import ObservableTruth, Row, RowKey
from collectors.simulator.plain import (
    Ends,
    KeptPoints,
    MinuteKey,
    read_record,
)
from collectors.simulator.plain_claims import Claim, corrected, named, read_claim, read_rules

_FUTURE_US = 60_000_000
_ANCIENT_US = 72 * HOUR_US


class Oracle:
    """Takes records and allocations in any order and computes what must come out.

    Records may repeat; of allocations the last of a (source, id) counts.
    """

    def __init__(self, inventory: Inventory, tenants: str = "") -> None:
        """`tenants` is the text of a tenants file."""
        self._inventory = inventory
        self._rules = read_rules(tenants, inventory.time_zone)
        self._kept = KeptPoints()
        self._claims: dict[tuple[str, str], Claim] = {}
        self._seen: dict[str, set[tuple[int, int]]] = {}
        self.rejected: dict[str, int] = {}
        self.records = 0
        self.repeated = 0

    def take_tenants(self, text: str) -> None:
        """Takes a tenants file in place of the one before."""
        self._rules = read_rules(text, self._inventory.time_zone)

    def add_record(self, data: bytes, bus_us: int) -> None:
        """Takes one record as the bus held it, with its bus time in µs."""
        self.records += 1
        try:
            record = read_record(data)
        except BrokenRecordError as error:
            self._reject(error.reason)
            return
        if record.time_us > bus_us + _FUTURE_US:
            self._reject("future")
            return
        if record.time_us < bus_us - _ANCIENT_US:
            self._reject("ancient")
            return
        seen = self._seen.setdefault(record.node, set())
        self.repeated += (record.run, record.sequence) in seen
        seen.add((record.run, record.sequence))
        self._kept.add(record)

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def add_allocation(self, value: bytes) -> None:
        """Takes the value of one record of the allocation topic."""
        claim = read_claim(value)
        self._claims[claim.source, claim.id] = claim

    def minutes(self) -> Iterator[tuple[MinuteKey, dict[str, Ends]]]:
        """Of every slot's minute the kept points: first and last of each counter it has."""
        return self._kept.minutes()

    def finish(self, hours: range | None = None, until_us: int | None = None) -> ObservableTruth:
        """Rows for every slot installed in `hours`: from the first kept point's to the last's
        where none are given.  `until_us` ends the last hour early."""
        points = self._kept.points()
        if hours is None:
            hulls = [hull for slot in points.values() for hull in slot.hulls.values()]
            first = min((low for low, _ in hulls), default=0)
            last = max((high for _, high in hulls), default=-1)
            hours = range(first // HOUR_US, last // HOUR_US + 1)
        rows: dict[RowKey, Row] = {}
        by_node = self._claims_by_node()
        for (node, slot), spans in self._installed().items():
            claims = [c for c in by_node.get(node, ()) if c.holds(node, slot)]
            ledger = SlotLedger(owner_timeline(spans, claims, hours, until_us))
            found = points.get((node, slot))
            if found is not None:
                ledger.fill(found)
            for (hour, owner), row in ledger.rows().items():
                rows[RowKey(hour, node, slot, *owner)] = row
        samples = {node: len(seen) for node, seen in sorted(self._seen.items())}
        return ObservableTruth(samples, dict(self.rejected), rows, self.repeated)

    def _claims_by_node(self) -> dict[str, list[Claim]]:
        out: dict[str, list[Claim]] = {}
        void = corrected(self._claims.values())
        for told in self._claims.values():
            if told.deleted or (told.source, told.id) in void:
                continue
            for claim in named(told, self._rules):
                for node in claim.subjects:
                    out.setdefault(node, []).append(claim)
        return out

    def _installed(self) -> dict[tuple[str, int], list[tuple[int, int | None]]]:
        out: dict[tuple[str, int], list[tuple[int, int | None]]] = {}
        for entry in self._inventory.nodes:
            for slot in entry.slots:
                out.setdefault((entry.name, slot), []).append((entry.from_us, entry.to_us))
        return out


def observable_truth(
    records: Iterable[tuple[bytes, int]], allocations: Iterable[bytes], inventory: Inventory
) -> ObservableTruth:
    """The oracle over records (bytes with bus time in µs) and allocation values."""
    oracle = Oracle(inventory)
    for data, bus_us in records:
        oracle.add_record(data, bus_us)
    for value in allocations:
        oracle.add_allocation(value)
    return oracle.finish()
