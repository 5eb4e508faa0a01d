"""The front: asks all sources in turn, believes the best of each slot, tells what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from collectors.attribution.boot import boot_id
from collectors.attribution.claims import KUBERNETES, PROCESS, RANK, SLURM, Claims, Seen
from collectors.attribution.ended_jobs import EndedJobs
from collectors.attribution.holders import Seats, SourceAwayError
from collectors.attribution.kubelet import Kubelet
from collectors.attribution.mappings import Mappings
from collectors.attribution.open_claims import ClaimFile
from collectors.attribution.places import Place, Places
from collectors.attribution.pods import pod_folders
from collectors.attribution.processes import Processes
from collectors.attribution.settings import AttributionSettings
from collectors.contract.source import GpuProcess
from collectors.contract.topics import Allocation
from collectors.kit.clock import Clock

_LABEL_NAMES = 4
_LABEL_CHARACTERS = 160


class Attributed(NamedTuple):
    """What one poll found out."""

    occupants: Mapping[int, str]
    """Slot → `slurm:123`, `k8s:namespace/pod`; several with commas between, bounded."""
    allocations: Sequence[Allocation]
    """New and changed ones alone; an end is the same id with `to_us`."""
    missing: Mapping[str, str]
    """What cannot be found out → why: `processes`, `environ`, `kubernetes`, `dead_pods`, …"""


class Attributor:
    """Finds out who is on the GPUs of one node.  One thread at a time."""

    def __init__(self, node: str, settings: AttributionSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._mappings = Mappings(settings, clock)
        self._over = EndedJobs(settings, clock)
        self._processes = Processes(settings)
        self._file = ClaimFile(settings.state)
        self._claims = Claims(node, clock, self._file, boot_id(settings.proc))
        self._kubelet = Kubelet(settings, clock, expected=self._claims.knows(KUBERNETES))
        self._places: dict[int, Place] = {}
        self._answered_us = {kind: clock.monotonic_us() for kind in RANK}
        self._missing: dict[str, str] = {}

    def poll(self, places: Sequence[Place], processes: Sequence[GpuProcess]) -> Attributed:
        """Who is where now.  Blocks, for `timeout_s` at most where the kubelet hangs.

        `places` are all slots of the node, `processes` those that the driver
        last listed.  A GPU that is not among the places any more keeps its
        owner: that it cannot be read is no news of its job.
        """
        self._remember(places)
        known = Places(self._places.values())
        folders = pod_folders(self._settings.pod_logs)
        self._missing = {}
        held = list[str]()
        mapped = self._ask(SLURM, lambda: self._mappings.poll(known), held)
        pods = self._ask(KUBERNETES, lambda: self._kubelet.poll(known, folders), held)
        shown = self._processes.poll(processes, folders, self._mappings.sluids)
        seen = {slot: Seen(PROCESS, holders) for slot, holders in shown.seats.items()}
        seen |= {slot: Seen(KUBERNETES, holders) for slot, holders in pods.items()}
        seen |= {slot: Seen(SLURM, holders) for slot, holders in mapped.items()}
        allocations = self._claims.update(
            seen, held, shown.busy, self._over.poll(known), self._places
        )
        for part in (self._mappings, self._kubelet, self._processes, self._file):
            self._missing |= part.missing
        occupants = {slot: self._label(slot) for slot in self._claims.slots}
        return Attributed(occupants, allocations, dict(self._missing))

    def _remember(self, places: Sequence[Place]) -> None:
        """Instances go when their GPU is there without them; a GPU only for another in its place."""
        there = {place.slot for place in places}
        names = {name for place in places for name in (place.uuid, place.number)}
        self._places = {
            slot: place
            for slot, place in self._places.items()
            if place.parent not in there and not names & {place.uuid, place.number} - {None, ""}
        }
        self._places |= {place.slot: place for place in places}

    def _ask(self, kind: str, question: Callable[[], Seats], held: list[str]) -> Seats:
        """A source's answer; a source that is away is believed for a while to say what it said."""
        now_us = self._clock.monotonic_us()
        try:
            seats = question()
        except SourceAwayError as error:
            self._missing["kubernetes" if kind == KUBERNETES else "job_mappings"] = str(error)
            if now_us - self._answered_us[kind] < self._settings.keep_s * 1e6:
                held.append(kind)
            return {}
        self._answered_us[kind] = now_us
        return seats

    def _label(self, slot: int) -> str:
        texts = sorted({holder.text for holder in self._claims.on(slot)})
        more = len(texts) - _LABEL_NAMES
        shown = ",".join(texts[:_LABEL_NAMES]) + (f",+{more}" if more > 0 else "")
        return shown if len(shown) <= _LABEL_CHARACTERS else shown[: _LABEL_CHARACTERS - 1] + "…"
