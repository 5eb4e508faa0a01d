"""What the node says of itself now and then: gathered by slot, sent when it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version

import msgspec

from collectors.agent.slots import AWAY, LOST, Known, Slots
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopMethod
from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.record import Origin
from collectors.kit.clock import Clock


@lru_cache(maxsize=1)
def own_version() -> str:
    """Of Petawatch, as it is installed."""
    return version("petawatch")


class FactsKeeper:
    """Facts of one node.  `due` says them at first, after a change, and every `every_s`."""

    def __init__(
        self, node: str, source: str, origin: Origin, interval_s: float, clock: Clock,
        *, every_s: float,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._every_us = int(every_s * 1e6)
        self._gpus: dict[int, GpuFacts] = {}
        self._last: NodeFacts | None = None
        self._said_us = 0
        self._base = NodeFacts(
            node, 0, origin.name.lower(), own_version(), source, interval_s=interval_s
        )

    def take(self, facts: Sequence[GpuFacts]) -> None:
        """What a device said of itself and its instances, all of them."""
        whole = facts[0].slot if facts else ""
        gone = [slot for slot, fact in self._gpus.items() if fact.parent == whole]
        for slot in gone:
            del self._gpus[slot]
        for fact in facts:
            self._gpus[parse_slot(fact.slot)] = fact

    def number(self, slot: int) -> int | None:
        """The number that schedulers use for it."""
        fact = self._gpus.get(slot)
        return None if fact is None else fact.number

    def profile(self, slot: int) -> str:
        """`1g.10gb`, for a MIG instance; "" where it is none, or not known."""
        fact = self._gpus.get(slot)
        return "" if fact is None else fact.profile

    def due(
        self, slots: Slots, driver: str, missing: Mapping[str, str], spooled: int, dropped: int
    ) -> NodeFacts | None:
        """The facts, where it is time to send them."""
        now_us = self._clock.monotonic_us()
        gpus = tuple(_with_state(self._gpus.get(slot), slot, known) for slot, known in slots)
        found = msgspec.structs.replace(self._base, driver=driver, gpus=gpus, missing=dict(missing))
        if found == self._last and now_us - self._said_us < self._every_us:
            return None
        self._last, self._said_us = found, now_us
        return msgspec.structs.replace(
            found, time_us=self._clock.wall_us(), spooled=spooled, dropped=dropped
        )


def _with_state(fact: GpuFacts | None, slot: int, known: Known) -> GpuFacts:
    """A device's facts with the state as the agent sees it; bare ones where it never said any."""
    state = LOST if known.state == AWAY else known.state
    if fact is None:
        labels = known.labels
        fact = GpuFacts(slot_text(slot), labels.uuid, labels.model, labels.serial)
    if known.exported and fact.flop_method == FLOP_METHOD_NAMES[FlopMethod.NONE]:
        fact = msgspec.structs.replace(fact, flop_method=FLOP_METHOD_NAMES[FlopMethod.EXPORTER])
    return fact if fact.state == state else msgspec.structs.replace(fact, state=state)
