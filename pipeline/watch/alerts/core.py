"""Records in, alerts and incidents out: one second after the other, without any I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from collectors.contract.alerts import Alert, Incident
from collectors.contract.inventory import Inventory
from collectors.contract.record import Origin
from collectors.contract.tenants import NO_TENANTS, Tenants
from collectors.contract.topics import Allocation, Event, FacilityReading
from pipeline.books.claim_index import MAINTENANCE
from pipeline.decode.slots import SlotTable
from pipeline.watch.alerts.around import Boards, Building, Holders, Told, of_time, placed
from pipeline.watch.alerts.buffer import Buffer
from pipeline.watch.alerts.derive import Values
from pipeline.watch.alerts.engine import Engine
from pipeline.watch.alerts.fleet import HOLD_S, Fleet
from pipeline.watch.alerts.inputs import Bools, Finding, Floats, Tick
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.subjects import Subjects
from pipeline.watch.alerts.wording import alert_of
from pipeline.watch.layout import FleetLayout

ACTIVE_SHARE = 0.5
"""Of the time observed, above which a GPU was active in a second."""


class Folding(Protocol):
    """Folds transitions into incidents: see `pipeline.watch.incidents`."""

    def take(self, alerts: Sequence[Alert], time_us: int) -> tuple[list[Alert], list[Incident]]:
        """Transitions of one second with their incident filled in, and what changed."""
        ...

    def save(self) -> bytes:
        """Its memory."""
        ...


class Physics(Protocol):
    """Finds cooling faults: see `pipeline.watch.alerts.thermal`."""

    def update(self, tick: Tick) -> tuple[dict[str, Floats], Sequence[Finding]]:
        """Derived columns and open suspicions of a second."""
        ...

    def save(self) -> bytes:
        """Its memory."""
        ...


class Core:
    """All that alerts need of one layout; `second` is called for one second after the other."""

    def __init__(
        self,
        rules: Sequence[Rule],
        inventory: Inventory,
        time_us: int,
        table: SlotTable,
        physics: Callable[[FleetLayout], Physics] | None = None,
        names: Tenants = NO_TENANTS,
    ) -> None:
        layout = FleetLayout.of(inventory, time_us)
        self.rules = tuple(rules)
        self.layout, self.layout_id = layout, inventory.layout_id
        self.buffer = Buffer(table)
        self.fleet = Fleet(layout, table, rules)
        self.values = Values(rules, layout)
        self.engine = Engine(rules)
        self.subjects = Subjects(layout)
        self.holders = Holders(layout, names)
        self.building = Building(layout)
        self.boards = Boards()
        self.physics = physics(layout) if physics is not None else None
        self.incidents: Folding | None = None
        self.refused = 0
        """Allocations that cannot be."""
        self.began_s = 0
        n = len(layout.places)
        self.active_s: NDArray[np.float64] = np.full(n, np.nan)
        """When each GPU was last active, or its holder changed."""
        self._held: NDArray[np.int32] = np.zeros(n, np.int32)
        self._node_at = {node.name: at for at, node in enumerate(layout.nodes)}

    def warm(self, second: int) -> None:
        """Takes in a second that was evaluated in a former life."""
        self.fleet.absorb(self.buffer.take(second), second)

    def second(
        self, second: int, told: Sequence[tuple[int, Told]]
    ) -> tuple[list[Alert], list[Incident]]:
        """Evaluates a second; `told` is what became known of around the GPUs."""
        self.began_s = self.began_s or second
        self.fleet.absorb(self.buffer.take(second), second)
        events = self._tell(told, second * 1_000_000)
        tick = self._tick(second, events)
        self.values.begin(tick)
        changes = self.engine.step(tick, self.values)
        hit = self.holders.hit
        alerts = [alert_of(one, tick, self.values, self.subjects, hit) for one in changes]
        if self.incidents is None:
            return alerts, []
        return self.incidents.take(alerts, tick.time_us)

    def _tell(self, told: Sequence[tuple[int, Told]], time_us: int) -> list[Event]:
        events: list[tuple[int, Event]] = []
        for bus_us, one in told:
            if isinstance(one, Event):
                events.append((bus_us, one))
            elif isinstance(one, Allocation):
                try:
                    self.holders.apply(one, time_us)
                except ValueError:
                    self.refused += 1
            elif isinstance(one, FacilityReading):
                self.building.apply(one)
            else:
                self.boards.apply(one)
        return of_time(events, self.buffer.offsets.by_name()) if events else []

    def _tick(self, second: int, events: Sequence[Event]) -> Tick:
        fleet, layout, time_us = self.fleet, self.layout, second * 1_000_000
        rates, interval_s = fleet.rates(second)
        seen_s = np.maximum(fleet.seen_s, self.began_s)
        age_s = (second - seen_s).astype(np.float32)
        owner = self.holders.owners.owners_at(time_us)
        allocated = owner > MAINTENANCE
        maintenance = owner == MAINTENANCE
        found = [placed(event, layout, self._node_at) for event in events]
        tick = Tick(
            time_us=time_us,
            layout=layout,
            gauges=fleet.gauges(second),
            rates=rates,
            steps=fleet.steps,
            age_s=age_s,
            interval_s=interval_s,
            idle_s=self._idle(second, rates, owner, allocated, age_s),
            fresh=fleet.fresh,
            owner=owner,
            owners=self.holders.owners.tenants,
            job=self.holders.jobs.owners_at(time_us),
            jobs=self.holders.jobs.tenants,
            allocated=allocated,
            clock_offset_s=fleet.clock_offset_s,
            facility=self.building.readings(time_us),
            events=[one for one in found if one is not None],
            health=self.boards.figures(time_us, self._records_per_s(interval_s, age_s)),
            maintenance=maintenance if maintenance.any() else None,
            origin=self._origin(),
        )
        if self.physics is None:
            return tick
        columns, findings = self.physics.update(tick)
        return replace(tick, physics=columns, findings=findings)

    def _idle(
        self,
        second: int,
        rates: Mapping[str, Floats],
        owner: NDArray[np.int32],
        allocated: Bools,
        age_s: Floats,
    ) -> Floats:
        """Seconds since each held GPU was last active; NaN where nobody holds it or it is silent."""
        changed = owner != self._held
        if changed.any():
            self._held = owner.copy()
        active = rates["active_us"] >= ACTIVE_SHARE * rates["observed_us"]
        active &= rates["active_us"] > 0
        self.active_s[active | changed | np.isnan(self.active_s)] = second
        known = allocated & (age_s <= HOLD_S) & ~np.isnan(rates["active_us"])
        idle: Floats = np.where(known, second - self.active_s, np.nan).astype(np.float32)
        return idle

    def _records_per_s(self, interval_s: Floats, age_s: Floats) -> float:
        """Node records that come per second, of GPUs that report."""
        first = np.searchsorted(self.layout.node, np.arange(len(self.layout.nodes)))
        alive = (age_s[first] <= HOLD_S) & (interval_s[first] > 0)
        return float((1.0 / interval_s[first][alive]).sum())

    def hold(self, time_us: int) -> None:
        """Takes the owners of a time as those that were held before: after a restart."""
        self._held = self.holders.owners.owners_at(time_us).copy()

    def _origin(self) -> str:
        """What is most real of what reports."""
        known = self.fleet.origin[self.fleet.origin > 0]
        return Origin(int(known.min())).name.lower() if len(known) else ""
