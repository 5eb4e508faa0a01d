"""What is carried of one GPU or instance from page to page of its exporter."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from collectors.agent.assembler import Reading
from collectors.contract.catalogue import CATALOGUE, Own
from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FLOP_METHOD_NAMES, FlopFlag, FlopMethod
from collectors.contract.identity import slot_text
from collectors.contract.models import GpuModel, find_model
from collectors.contract.source import DeviceEvent
from collectors.kit.flops import rates_of
from collectors.scrape.names import ACTIVITIES, RATES
from collectors.scrape.page import DCGM, PageGpu
from collectors.scrape.pipe import ExporterPipe
from collectors.scrape.series import Place
from collectors.scrape.values import catalogue_values

_ENERGY = "energy_mj"


class ScrapedGpu:
    """Readings, XIDs and facts of one slot."""

    def __init__(self, place: Place, exporter: str) -> None:
        self.place = place
        self._exporter = exporter
        self._model: GpuModel | None = find_model(place.labels.model)
        self._pipe = ExporterPipe()
        self._energy_mj, self._falls = 0, 0
        self._traffic: dict[str, float] = {}
        self._offered: set[str] = set()
        self._xid: int | None = None
        self._xids: dict[int, int] | None = None
        self.down = False

    def reading(
        self, gpu: PageGpu, percent: bool | None, elapsed_us: int, *, overdue: bool,
        rejects: Counter[str],
    ) -> Reading:  # fmt: skip
        """What a page says of it; `elapsed_us` and `overdue` as for `ExporterPipe.window`."""
        if gpu.place.labels.model != self.place.labels.model:
            self._model = find_model(gpu.place.labels.model)
        self.place = gpu.place
        values = catalogue_values(gpu.values, percent, rejects)
        self._offered |= values.keys()
        window = self._pipe.window(gpu.values, values, self._model, elapsed_us, overdue=overdue)
        if overdue or (window is not None and window.flags & FlopFlag.STALE):
            for name in ACTIVITIES:
                values.pop(name, None)
        else:
            self._add_traffic(gpu.values, elapsed_us)
        for name, count in self._traffic.items():
            values.setdefault(name, int(count))
        occupant = ", ".join(sorted(holder.text for holder in gpu.holders))
        labels = replace(self.place.labels, occupant=occupant) if occupant else self.place.labels
        return Reading(labels, self._energy_epoch(values), values, flop=window)

    def silent(self) -> Reading:
        """A reading of nothing that is known: its time is unobserved."""
        return Reading(self.place.labels, self._epoch(), {})

    def lost(self) -> Reading:
        """A reading of a GPU that its exporter shows no longer."""
        return Reading(self.place.labels, self._epoch(), None)

    def _add_traffic(self, raw: Mapping[str, float], elapsed_us: int) -> None:
        """Rates are means over the exporter's interval, as activities are."""
        for name, counter in RATES.items():
            rate = raw.get(name)
            if rate is not None and rate >= 0:
                self._traffic[counter] = self._traffic.get(counter, 0.0) + rate * elapsed_us / 1e6

    def _energy_epoch(self, values: Mapping[str, float]) -> int:
        """A counter that falls has begun again: the driver was loaded anew."""
        energy_mj = int(values.get(_ENERGY, self._energy_mj))
        if energy_mj < self._energy_mj:
            self._falls += 1
        self._energy_mj = energy_mj
        return self._epoch()

    def _epoch(self) -> int:
        """The same after a restart of the scraper, so that energy is bridged over it."""
        labels = self.place.labels
        text = f"scrape\n{labels.slot}\n{labels.uuid}\n{self._falls}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def xids(self, gpu: PageGpu) -> list[DeviceEvent]:
        """What has befallen it since the last page.

        The first page says nothing: when what it shows was, nobody knows.
        """
        labels = self.place.labels
        before, self._xids = self._xids, dict(gpu.xids) or self._xids
        codes = [
            code
            for code, count in gpu.xids.items()
            if before is not None and count > before.get(code, 0)
        ]
        last, self._xid = self._xid, int(gpu.values.get("xid_last", 0))
        if not gpu.xids and last is not None and self._xid not in {0, last}:
            codes = [self._xid]
        return [DeviceEvent("xid", labels.slot, labels.uuid, code) for code in codes]

    def facts(self) -> GpuFacts:
        """As far as pages have shown."""
        labels, place = self.place.labels, self.place
        method, reason = self._method()
        missing = {
            metric.name: f"not offered by {self._exporter}"
            for metric in CATALOGUE
            if metric.name not in self._offered | self._traffic.keys()
            and not isinstance(metric.read, Own)
        }
        return GpuFacts(
            slot_text(labels.slot), labels.uuid, labels.model, labels.serial, place.number,
            "" if place.parent is None else slot_text(place.parent), place.profile,
            None if self._model is None else self._model.sm_count,
            flop_method=FLOP_METHOD_NAMES[method], flop_reason=reason, unsupported=missing,
            state="lost" if self.down else "ok",
        )  # fmt: skip

    def _method(self) -> tuple[FlopMethod, str]:
        if self.place.parent is not None:
            return FlopMethod.NONE, "an exporter does not say how many SMs an instance has"
        if rates_of(self._model) is None:
            return FlopMethod.NONE, f"unknown_model: {self.place.labels.model or 'no name given'}"
        if "tensor_activity" in self._offered:
            return FlopMethod.EXPORTER, ""
        reason = f"{self._exporter} shows no tensor activity"
        if self._exporter == DCGM:
            reason += ": add DCGM_FI_PROF_PIPE_TENSOR_ACTIVE to its collectors"
        known = {"gpu_utilization", "sm_clock_mhz"} <= self._offered
        return FlopMethod.ESTIMATE if known else FlopMethod.NONE, reason
