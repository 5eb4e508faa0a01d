"""What stands around the GPUs: who holds them, what happened, what the building and the pipeline
say.  Each record counts from the second in which it could first be known (bus time − 1 s)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from collectors.contract.bus import Chunk
from collectors.contract.identity import parse_slot
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation, Event, FacilityReading
from pipeline.books.claim_index import ClaimIndex
from pipeline.books.claims import Rank, claims_of
from pipeline.health import LAG_RECORDS, LAG_S, HealthRecord
from pipeline.watch.alerts.buffer import SOON_US
from pipeline.watch.alerts.inputs import Floats, Placed
from pipeline.watch.layout import FleetLayout

EVENT_OLD_US = 600_000_000
"""An event that is told of later than this goes into history and never pages."""
FACILITY_HOLD_US = 600_000_000
_ENDED_US = 3_600_000_000
LATELY_US = 60_000_000
"""A fault ends the job that it hits, often before it is seen: whoever let go so shortly before is
named."""
_BOARD_OLD_US = 60_000_000
_MOST_WAITING = 200_000
Told = Allocation | Event | FacilityReading | HealthRecord


class Waiting:
    """Records by bus time until their second comes; the oldest go where there are too many."""

    def __init__(self) -> None:
        self._records: deque[tuple[int, Told]] = deque()
        self.dropped = 0

    def put(self, chunk: Chunk, read: Callable[[bytes], Told]) -> int:
        """Takes a chunk in; returns how many of its records cannot be read."""
        broken = 0
        for bus_us, value in zip(chunk.bus_us, chunk.values, strict=True):
            try:
                self._records.append((bus_us, read(value)))
            except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
                broken += 1
        while len(self._records) > _MOST_WAITING:
            self._records.popleft()
            self.dropped += 1
        return broken

    def due(self, time_us: int) -> list[tuple[int, Told]]:
        """What is known at a second."""
        out: list[tuple[int, Told]] = []
        while self._records and self._records[0][0] <= time_us + SOON_US:
            out.append(self._records.popleft())
        return out

    def __len__(self) -> int:
        return len(self._records)


class Holders:
    """Owners and jobs of all positions; `names` is the tenants file, which may say whose a
    claim is."""

    def __init__(self, layout: FleetLayout, names: Tenants = NO_TENANTS) -> None:
        self.owners, self.jobs = ClaimIndex(layout.places, names), ClaimIndex(layout.places)
        self._places, self._names = layout.places, names
        self._known: dict[bytes, Allocation] = {}
        self._of_node: dict[str, list[Allocation]] | None = None
        self._swept_us = 0

    def apply(self, allocation: Allocation, time_us: int) -> None:
        """The last word on an allocation.  Raises ValueError for one that cannot be."""
        self.owners.apply(allocation)
        name = allocation.job or allocation.id
        self.jobs.apply(msgspec.structs.replace(allocation, tenant=name))
        self._known[allocation.key] = allocation
        self._of_node = None
        if time_us > self._swept_us + _ENDED_US:
            self._swept_us = time_us
            self._known = {key: one for key, one in self._known.items() if _lives(one, time_us)}

    def alive(self, time_us: int) -> list[Allocation]:
        """Those that still matter."""
        return [one for one in self._known.values() if _lives(one, time_us)]

    def hit(self, gpus: NDArray[np.intp], time_us: int) -> tuple[set[str], set[str]]:
        """Tenants and jobs that held some positions at a time; of those that nobody held, who let
        go of them within `LATELY_US` before."""
        if self._of_node is None:
            self._of_node = {}
            for one in self._known.values():
                for node in {subject.node for subject in one.subjects}:
                    self._of_node.setdefault(node, []).append(one)
        indices: list[int] = gpus.tolist()
        found = [self._hit(*self._places[gpu], time_us) for gpu in indices]
        return {tenant for tenant, _ in found} - {""}, {job for _, job in found} - {""}

    def _hit(self, node: str, slot: int, time_us: int) -> tuple[str, str]:
        best: tuple[bool, int, Rank] | None = None
        name = ("", "")
        for allocation in (self._of_node or {}).get(node, ()):
            if not _near(allocation, time_us):
                continue
            for claim in claims_of(allocation, self._names):
                if claim.node != node or not claim.holds(slot):
                    continue
                if not claim.from_us <= time_us < claim.to_us + LATELY_US:
                    continue
                holds = claim.to_us > time_us
                rank = (holds, 0 if holds else claim.to_us, claim.rank)
                if best is None or rank > best:
                    best = rank
                    upkeep = claim.rank.maintenance
                    job = allocation.job or allocation.id
                    name = ("", "") if upkeep else (claim.owner.tenant, job)
        return name


def _near(allocation: Allocation, time_us: int) -> bool:
    ended = allocation.to_us is not None and allocation.to_us + LATELY_US <= time_us
    return allocation.from_us <= time_us and not ended


def _lives(allocation: Allocation, time_us: int) -> bool:
    return allocation.to_us is None or allocation.to_us > time_us - _ENDED_US


class Building:
    """The last readings of the building's sensors, by place."""

    def __init__(self, layout: FleetLayout) -> None:
        names = {
            "rack": [f"{hall}/{rack}" for hall, rack in layout.racks],
            "hall": layout.halls,
            "site": [layout.inventory.name],
        }
        self._at = {
            kind: {name: at for at, name in enumerate(some)} for kind, some in names.items()
        }
        # A rack's own name does where no other hall has one of that name.
        for at, (_, rack) in enumerate(layout.racks):
            self._at["rack"].setdefault(rack, at)
        self._size = {kind: len(some) for kind, some in names.items()}
        self._values: dict[tuple[str, str], NDArray[np.float32]] = {}
        self._times: dict[tuple[str, str], NDArray[np.int64]] = {}

    def apply(self, reading: FacilityReading) -> None:
        """Takes a reading; of places that the inventory lacks nothing is kept."""
        known = self._at.get(reading.place_kind, {})
        at = 0 if reading.place_kind == "site" else known.get(reading.place)
        if at is None or reading.place_kind not in self._size:
            return
        key = (reading.place_kind, reading.metric)
        if key not in self._values:
            if len(self._values) >= 64:
                return
            size = self._size[reading.place_kind]
            self._values[key] = np.full(size, np.nan, np.float32)
            self._times[key] = np.zeros(size, np.int64)
        if reading.time_us >= self._times[key][at]:
            self._values[key][at], self._times[key][at] = reading.value, reading.time_us

    def readings(self, time_us: int) -> Mapping[tuple[str, str], Floats]:
        """What was read within the last ten minutes, NaN elsewhere."""
        return {
            key: np.where(time_us - self._times[key] > FACILITY_HOLD_US, np.float32(np.nan), values)
            for key, values in self._values.items()
        }


class Boards:
    """What the pipeline's roles last said of themselves."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], HealthRecord] = {}
        self._heard_us: dict[str, int] = {}

    def apply(self, record: HealthRecord) -> None:
        """Takes a board; those that fell silent are forgotten."""
        self._last[record.role, record.instance] = record
        self._heard_us[record.role] = max(record.time_us, self._heard_us.get(record.role, 0))
        old = record.time_us - _BOARD_OLD_US
        self._last = {key: one for key, one in self._last.items() if one.time_us >= old}

    def figures(self, time_us: int, records_per_s: float) -> Mapping[tuple[str, str], float]:
        """By role and name: the sum over instances and labels; of times the greatest.

        Beside what boards say: `silent_s` of each role that was heard once, and
        the store's `lag_s`, its records behind over what comes per second.
        """
        out: dict[tuple[str, str], float] = {
            (role, "silent_s"): max(0.0, (time_us - heard_us) / 1e6)
            for role, heard_us in self._heard_us.items()
        }
        for (role, _), record in self._last.items():
            for name, rows in record.values.items():
                values = [float(row.value) for row in rows]
                if not values:
                    continue
                key = (role, name)
                if name.endswith(("_s", "_days")):
                    out[key] = max(out.get(key, -np.inf), *values)
                else:
                    out[key] = out.get(key, 0.0) + sum(values)
        behind = out.get(("store", LAG_RECORDS))
        if behind is not None and records_per_s > 0:
            out.setdefault(("store", LAG_S), behind / records_per_s)
        return out


def placed(event: Event, layout: FleetLayout, node_at: Mapping[str, int]) -> Placed | None:
    """An event's place in the layout; None where the inventory has no such node."""
    node = node_at.get(event.node)
    if node is None:
        return None
    gpu = -1
    if event.slot:
        try:
            slot = parse_slot(event.slot.split("/")[0])
        except ValueError:
            return None
        gpu = layout.position.get((event.node, slot), -1)
    return Placed(event, node, gpu)


def of_time(events: Sequence[tuple[int, Event]], offsets_us: Mapping[str, int]) -> list[Event]:
    """Events that are told of soon enough to matter now; pairs of (bus time, event)."""
    return [
        event
        for bus_us, event in events
        if bus_us - event.time_us - offsets_us.get(event.node, 0) <= EVENT_OLD_US
    ]
