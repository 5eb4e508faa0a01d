"""The slots of a node, the state of each, and what is said when one changes.

A slot once seen stays known: while its device cannot be read it is down.  Only
a MIG instance can be forgotten, when its GPU is divided in another way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from collectors.agent.answers import Answer
from collectors.agent.assembler import Reading
from collectors.agent.folded import FoldedLog
from collectors.agent.windows import joined
from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.identity import slot_text
from collectors.contract.record import SlotLabels
from collectors.contract.source import (
    Device,
    DeviceLostError,
    DriverGoneError,
    RestartNeededError,
    Sample,
    TransientError,
)
from collectors.kit.clock import Clock

_log = logging.getLogger(__name__)
OK, LOST, NEEDS_RESET, HUNG, RELEASED = "ok", "lost", "needs_reset", "hung", "released"
"""States as facts name them."""
AWAY = "away"
"""The whole driver is; of a GPU facts then say `lost`."""
_KINDS = {LOST: "gpu_lost", NEEDS_RESET: "gpu_needs_reset", HUNG: "gpu_hung"}
_HUNG_TICKS = 3


class Say(Protocol):
    """Publishes an event of the agent's own."""

    def __call__(
        self, kind: str, slot: int | None = None, uuid: str = "", text: str = ""
    ) -> object: ...


@dataclass(slots=True)
class Known:
    """A slot once seen."""

    labels: SlotLabels
    energy_epoch: int
    parent: int | None = None
    state: str = OK
    since_us: int = 0
    """Wall time at which the state began."""
    missed: int = 0
    """Ticks in a row without an answer in time."""
    exported: bool = False
    """Whether an exporter measures the FLOP that the device does not."""
    shown: SlotLabels | None = None
    """The labels with the occupant that was last put in."""
    plain: SlotLabels | None = None
    """The labels of which `shown` was made."""


class Slots:
    """Takes what devices answered in a tick and makes readings of it."""

    def __init__(self, clock: Clock, say: Say, log: FoldedLog) -> None:
        self._clock, self._say, self._folded = clock, say, log
        self._known: dict[int, Known] = {}
        self._now: dict[int, Sample] = {}
        self._processes: dict[int, int] = {}
        self._divided = False
        """Whether a GPU has been divided since the start."""
        self.failures: dict[str, int] = {}
        """Readings that failed, by class: transient, lost, driver, late, unforeseen."""

    def __iter__(self) -> Iterator[tuple[int, Known]]:
        return iter(sorted(self._known.items()))

    def __len__(self) -> int:
        return len(self._known)

    def begin(self) -> None:
        """A new tick: nothing of the last one is left."""
        self._now.clear()
        self._processes.clear()

    def take(self, device: Device, answer: Answer | None) -> None:
        """What a device said; None: nothing in time.

        Raises DriverGoneError and RestartNeededError, which are more than the device's.
        """
        known = self._of(device)
        if answer is None:
            self._missed(device.slot, known)
            return
        known.missed = 0
        error = answer.error
        if error is None:
            self._samples(device.slot, answer)
        elif isinstance(error, DriverGoneError | RestartNeededError):
            self._count("driver")
            raise error
        elif isinstance(error, DeviceLostError):
            self._count("lost")
            self._mark(device.slot, _sick(answer.facts), str(error))
        else:
            self._silent(device.slot, known, error)

    def _of(self, device: Device) -> Known:
        known = self._known.get(device.slot)
        if known is None:
            known = self._known[device.slot] = Known(device.labels, device.energy_epoch)
            known.since_us = self._clock.wall_us()
        elif known.labels is not device.labels:
            known.labels = device.labels
        known.energy_epoch = device.energy_epoch
        return known

    def _samples(self, whole: int, answer: Answer) -> None:
        seen: set[int] = set()
        for sample in answer.samples:
            slot = sample.labels.slot
            seen.add(slot)
            known = self._known.get(slot)
            if known is None:
                known = self._known[slot] = Known(sample.labels, sample.energy_epoch)
                known.since_us = self._clock.wall_us()
            known.labels, known.energy_epoch = sample.labels, sample.energy_epoch
            known.parent = sample.parent
            self._divided |= sample.parent is not None
            self._now[slot] = sample
        self._mark(whole, OK, "")
        if self._divided:
            self._forget_gone(whole, seen)
        if answer.processes is not None:
            self._processes.update(dict.fromkeys(seen, 0))
            for process in answer.processes:
                for slot in {process.slot, whole}:
                    self._processes[slot] = self._processes.get(slot, 0) + 1

    def _forget_gone(self, whole: int, seen: Collection[int]) -> None:
        """Instances that the GPU has no longer."""
        gone = [s for s, known in self._known.items() if known.parent == whole and s not in seen]
        for slot in gone:
            _log.info("instance_gone slot=%s", slot_text(slot))
            del self._known[slot]

    def _silent(self, slot: int, known: Known, error: Exception) -> None:
        foreseen = isinstance(error, TransientError)
        self._count("transient" if foreseen else "unforeseen")
        self._folded.warning(
            f"silent {slot}", "gpu_silent slot=%s uuid=%s reason=%s: asked again at the next tick",
            slot_text(slot), known.labels.uuid, error if foreseen else repr(error),
        )  # fmt: skip

    def _missed(self, slot: int, known: Known) -> None:
        self._count("late")
        known.missed += 1
        if known.missed >= _HUNG_TICKS:
            self._mark(slot, HUNG, f"no answer for {known.missed} readings")
            return
        self._folded.warning(
            f"late {slot}", "gpu_late slot=%s uuid=%s: no answer within the tick; the others go on",
            slot_text(slot), known.labels.uuid,
        )  # fmt: skip

    def _count(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def _mark(self, whole: int, state: str, text: str) -> None:
        """A GPU's state, which is that of its instances too."""
        known = self._known[whole]
        if known.state == state:
            return
        before, since_us = known.state, known.since_us
        self._set(known, state)
        for instance in self._known.values():
            if instance.parent == whole:
                self._set(instance, state)
        if before in {RELEASED, AWAY} and state == OK:
            return
        kind = _KINDS.get(state, "gpu_recovered")
        if state == OK:
            self._folded.over(f"late {whole}")
            text = f"was {before} for {(known.since_us - since_us) / 1e6:.0f} s"
        _log.warning("%s slot=%s uuid=%s %s", kind, slot_text(whole), known.labels.uuid, text)
        self._say(kind, whole, known.labels.uuid, text)

    def _set(self, known: Known, state: str) -> None:
        if known.state != state:
            known.state, known.since_us, known.missed = state, self._clock.wall_us(), 0

    def unlisted(self, listed: Collection[int]) -> None:
        """GPUs that were there and that the driver does not list any more."""
        for slot, known in self._known.items():
            if known.parent is None and slot not in listed:
                self._mark(slot, LOST, "the driver does not list it any more")

    def all_are(self, state: str) -> None:
        """The whole driver is away or released; the event of it is the node's, not the GPUs'."""
        for known in self._known.values():
            self._set(known, state)

    def readings(
        self,
        occupant_of: Callable[[int], str],
        late_window: Callable[[int], FlopWindow | None],
        window_of: Callable[[Sample], FlopWindow | None],
    ) -> list[Reading]:
        """All known slots; `window_of` is asked where the device measures no FLOP itself."""
        out: list[Reading] = []
        for slot, known in sorted(self._known.items()):
            labels = _with_occupant(known, occupant_of(slot))
            sample = self._now.get(slot)
            if sample is None:
                out.append(Reading(labels, known.energy_epoch, None))
                continue
            values = sample.values
            if slot in self._processes:
                values = {**values, "processes": float(self._processes[slot])}
            own = sample.flop
            if own is None:
                own = window_of(sample)
                known.exported = own is not None
            late = late_window(slot)
            window = own if late is None else joined(late, own)
            out.append(Reading(labels, known.energy_epoch, values, window))
        return out

    def labels(self) -> dict[int, SlotLabels]:
        """Who sits in the known slots, as the last record said."""
        return {slot: known.shown or known.labels for slot, known in self._known.items()}


def _with_occupant(known: Known, occupant: str) -> SlotLabels:
    """The labels with who was found on it; a source that says it itself is believed."""
    shown, plain = known.shown, known.labels
    wanted = occupant or plain.occupant
    if shown is None or shown.occupant != wanted or known.plain is not plain:
        made, known.plain = replace(plain, occupant=wanted), plain
        if shown is None or shown != made:
            shown = known.shown = made
    return shown


def _sick(facts: Sequence[GpuFacts] | None) -> str:
    """`lost`, or what the device itself says is needed."""
    return NEEDS_RESET if facts and facts[0].state == NEEDS_RESET else LOST
