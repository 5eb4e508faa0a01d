"""NVLink's error counters, whose fields differ from one generation to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from collectors.contract.source import TransientError, UnsupportedError
from collectors.nvml.api import Nvml
from collectors.nvml.batch import FieldBatch
from collectors.nvml.fields import ALL_LINKS, PlannedField

_LINK_COUNT = 91
_LINKS_AT_MOST = 64
_TOTALS = (38, 45, 52, 59)
"""CRC errors of flits and of data, replays, recoveries: each of all links (to NVLink 3)."""
_PER_LINK = (161, 162, 163)
"""Replays, recoveries, CRC errors of one link (to NVLink 4)."""
_PER_LINK_5 = (208, 215)
"""Received errors and recoveries of one link (NVLink 5)."""
_ALWAYS = frozenset({0.0})


class LinkErrors:
    """Their sum.  The first set of counters that the device knows is kept."""

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._sets: Iterator[list[tuple[int, int]]] | None = None
        self._batch: FieldBatch | None = None
        self._wanted: set[str] = set()
        self._parts = 0
        """How many the sum had, once it was given."""

    def read(self) -> int:
        """Errors of all links.  Raises as `Device.read`, UnsupportedError where none are
        counted; a sum that lacks one of its parts this time, or from now on, is none."""
        while True:
            batch = self._batch or self._next()
            values = batch.read(_ALWAYS)
            if not self._wanted:
                self._batch = None
                continue
            if self._parts and len(self._wanted) < self._parts:
                raise UnsupportedError("one of the NVLink counters is given no longer")
            if len(values) < len(self._wanted):
                raise TransientError("an NVLink counter gave no value")
            self._parts = len(values)
            return int(sum(values.values()))

    def _next(self) -> FieldBatch:
        if self._sets is None:
            self._sets = _candidates(self._link_count())
        fields = next(self._sets, None)
        if fields is None:
            raise UnsupportedError("no NVLink error counters")
        plan = [_planned(field, scope) for field, scope in fields]
        self._wanted = {one.metric for one in plan}
        self._batch = FieldBatch(self._nvml, self._handle, plan, self._missing)
        return self._batch

    def _missing(self, planned: PlannedField, _error: UnsupportedError) -> None:
        self._wanted.discard(planned.metric)

    def _link_count(self) -> int | None:
        """Links of the device, None where it does not say."""
        batch = FieldBatch(self._nvml, self._handle, [_planned(_LINK_COUNT, 0)], self._missing)
        values = batch.read(_ALWAYS)
        return int(next(iter(values.values()))) if values else None


def _candidates(links: int | None) -> Iterator[list[tuple[int, int]]]:
    if links == 0:
        return
    yield [(field, 0) for field in _TOTALS]
    places = range(min(links or 0, _LINKS_AT_MOST))
    for fields in (_PER_LINK, _PER_LINK_5):
        if places:
            yield [(field, link) for link in places for field in fields]
    yield [(field, ALL_LINKS) for field in _PER_LINK]


def _planned(field: int, scope: int) -> PlannedField:
    return PlannedField(f"{field}/{scope}", field, scope, 1, 1, counter=True, low=0)
