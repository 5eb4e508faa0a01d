"""One exporter's node: pages in; a record, events, claims and facts out."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version

import msgspec

from collectors.agent.assembler import NodeAssembler, Reading
from collectors.agent.events import EventDesk
from collectors.contract.facts import NodeFacts
from collectors.contract.identity import new_run, slot_text
from collectors.contract.record import NodeRecord, Origin, SlotLabels
from collectors.contract.source import DeviceEvent
from collectors.contract.topics import Event
from collectors.kit.clock import Clock
from collectors.scrape.gpu import ScrapedGpu
from collectors.scrape.page import Page, PageGpu
from collectors.scrape.renewals import Renewals
from collectors.scrape.series import Holder

_log = logging.getLogger(__name__)
_GAP_PERIODS = 2.5
_FACTS_US, _LOOK_US = 600_000_000, 60_000_000
_SOURCE = "exporter"


@lru_cache(maxsize=1)
def _own_version() -> str:
    return version("petawatch")


@dataclass(slots=True)
class Taken:
    """What a page amounts to."""

    record: NodeRecord | None = None
    events: list[Event] = field(default_factory=list[Event])
    facts: NodeFacts | None = None
    holders: dict[int, set[Holder]] = field(default_factory=dict[int, set[Holder]])


class ScrapedNode:
    """Told of one exporter's pages in order of time."""

    def __init__(
        self, name: str, exporter: str, clock: Clock, period_s: float, refresh_us: int | None
    ) -> None:
        self.name, self._exporter = name, exporter
        self._clock, self._period_s = clock, period_s
        self.renewals = Renewals(refresh_us)
        self._gpus: dict[int, ScrapedGpu] = {}
        self._assembler: NodeAssembler | None = None
        self._desk = EventDesk(name, clock, self._occupant_of)
        self._occupants: dict[int, str] = {}
        self._facts: NodeFacts | None = None
        self._facts_us = self._look_us = 0
        self.rejects: Counter[str] = Counter()

    def new_run(self) -> None:
        """Event time has jumped: what follows is another run."""
        self._assembler = None
        self.renewals.refresh.lost()

    def labels(self) -> dict[int, SlotLabels]:
        """Who sits in the known slots."""
        return {slot: gpu.place.labels for slot, gpu in self._gpus.items()}

    def take(self, page: Page, time_us: int) -> Taken:
        """The page of a time.  A page without GPUs is no news of any."""
        if not page.gpus or not page.current:
            return Taken()
        elapsed_us = self.renewals.take(page, time_us)
        overdue = self.renewals.overdue(time_us)
        frozen = self.renewals.frozen(page, int(self._period_s * 1e6))
        told = set(self.rejects)
        self.rejects += page.rejects
        events = self._layout(page)
        readings = [
            self._gpus[gpu.slot].silent()
            if frozen
            else self._read(gpu, page, elapsed_us, overdue=overdue)
            for gpu in page.gpus
        ]
        if more := self.rejects.keys() - told:
            _log.info("values_left_out node=%s metrics=%s", self.name, ",".join(sorted(more)))
        for gpu in page.gpus:
            for found in self._gpus[gpu.slot].xids(gpu):
                events += self._desk.take(found, _SOURCE)
        events += self._desk.due()
        readings += [gpu.lost() for gpu in self._gpus.values() if gpu.down]
        readings.sort(key=lambda reading: reading.labels.slot)
        self._occupants = {one.labels.slot: one.labels.occupant for one in readings}
        holders = {gpu.slot: gpu.holders for gpu in page.gpus}
        return Taken(
            self._record(time_us, readings), events, self._due_facts(page, time_us), holders
        )

    def _read(self, gpu: PageGpu, page: Page, elapsed_us: int, *, overdue: bool) -> Reading:
        return self._gpus[gpu.slot].reading(
            gpu, page.percent, elapsed_us, overdue=overdue, rejects=self.rejects
        )

    def _layout(self, page: Page) -> list[Event]:
        """Takes over which GPUs there are; events of those that went or came back."""
        seen = {gpu.slot: gpu for gpu in page.gpus}
        moved = {
            gpu.place.labels.uuid
            for slot, gpu in seen.items()
            if gpu.place.parent is None and slot not in self._gpus
        } - {""}
        events: list[Event] = []
        for slot, known in list(self._gpus.items()):
            if slot in seen:
                if known.down:
                    events += self._turn(known, down=False)
            elif known.place.parent is not None or known.place.labels.uuid in moved:
                # An instance is dissolved; a GPU is now known by its address, say.
                _log.info("slot_gone node=%s slot=%s", self.name, slot_text(slot))
                del self._gpus[slot]
            elif not known.down:
                events += self._turn(known, down=True)
        for slot, gpu in seen.items():
            if slot not in self._gpus:
                self._gpus[slot] = ScrapedGpu(gpu.place, self._exporter)
                self._look_us = 0
        return events

    def _turn(self, gpu: ScrapedGpu, *, down: bool) -> list[Event]:
        gpu.down, self._look_us = down, 0
        kind, labels = ("gpu_lost" if down else "gpu_recovered"), gpu.place.labels
        text = "its exporter shows it no longer" if down else ""
        _log.warning("%s node=%s slot=%s", kind, self.name, slot_text(labels.slot))
        return self._desk.take(DeviceEvent(kind, labels.slot, labels.uuid, text=text), _SOURCE)

    def _record(self, time_us: int, readings: Sequence[Reading]) -> NodeRecord:
        if self._assembler is None:
            self._assembler = NodeAssembler(
                self.name, Origin.MEASURED, new_run(time_us, secrets.randbits(20)),
                longest_gap_us=int(self._period_s * _GAP_PERIODS * 1e6),
            )  # fmt: skip
        return self._assembler.assemble(time_us, readings)

    def _due_facts(self, page: Page, time_us: int) -> NodeFacts | None:
        """Facts when they change, looked at now and then, and again after a while."""
        if time_us < self._look_us:
            return None
        self._look_us = time_us + _LOOK_US
        facts = NodeFacts(
            self.name, 0, Origin.MEASURED.name.lower(), _own_version(), "scrape", page.driver,
            self._period_s, tuple(self._gpus[slot].facts() for slot in sorted(self._gpus)),
            _missing(page),
        )  # fmt: skip
        if facts == self._facts and time_us - self._facts_us < _FACTS_US:
            return None
        self._facts, self._facts_us = facts, time_us
        return msgspec.structs.replace(facts, time_us=time_us)

    def _occupant_of(self, slot: int) -> str:
        return self._occupants.get(slot, "")


def _missing(page: Page) -> dict[str, str]:
    """What no exporter gives of a node."""
    known = any("xid_last" in gpu.values or gpu.xids for gpu in page.gpus)
    missing = {"processes": f"not offered by {page.exporter}",
               "kernel_log": f"not offered by {page.exporter}"}  # fmt: skip
    return missing if known else missing | {"events": f"not offered by {page.exporter}"}
