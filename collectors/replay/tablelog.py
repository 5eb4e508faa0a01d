"""The table that `nvidia-smi` prints without options: two lines a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import tzinfo
from pathlib import Path

from collectors.contract.identity import parse_slot
from collectors.contract.record import SlotLabels
from collectors.replay.csvlog import open_text
from collectors.replay.quantities import absent, as_metric, quantity
from collectors.replay.samples import Rejects, Sample
from collectors.replay.xmllog import smi_time

TITLE = "| NVIDIA-SMI "
_FIRST = re.compile(
    r"\|\s+\d+\s+(?P<name>\S.*?)\s+(?:On|Off|N/A|ERR!)?\s*"
    r"\|\s*(?P<address>[0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])\s+\S+\s*"
    r"\|\s*(?P<ecc>\S.*?)\s*\|"
)
_SECOND = re.compile(
    r"\|\s*(?P<fan>\S+)\s+(?P<temperature>\S+)\s+(?P<state>\S+)\s+"
    r"(?P<power>\S.*?)\s*/\s*(?P<limit>\S.*?)\s*"
    r"\|\s*(?P<used>\S.*?)\s*/\s*(?P<total>\S.*?)\s*"
    r"\|\s*(?P<utilization>\S+)\s.*\|"
)
_STAMP = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\s*")
_CELLS = (
    ("fan_speed", "fan"), ("gpu_temperature_c", "temperature"), ("performance_state", "state"),
    ("power_w", "power"), ("power_limit_w", "limit"), ("memory_used_bytes", "used"),
    ("memory_total_bytes", "total"), ("gpu_utilization", "utilization"),
)  # fmt: skip


class TableLog:
    """A `Reader`.  A name that was cut short is none; `zone` is the place of the stamps."""

    def __init__(self, zone: tzinfo, model: str = "") -> None:
        self._zone, self._model = zone, model

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """See `Reader`."""
        time_us: int | None = None
        first: re.Match[str] | None = None
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                place = f"{path.name}:{number}"
                if _STAMP.fullmatch(line):
                    time_us = smi_time(line.strip(), self._zone)
                second = _SECOND.match(line) if first is not None else None
                if first is not None and second is not None:
                    yield self._sample(time_us, first, second, rejects, place)
                elif first is not None:
                    rejects.add("broken", place)
                first = _FIRST.match(line)

    def _sample(
        self, time_us: int | None, first: re.Match[str], second: re.Match[str], rejects: Rejects,
        place: str,
    ) -> Sample:  # fmt: skip
        cells = {name: second[group] for name, group in _CELLS} | {"ecc_uncorrected": first["ecc"]}
        values: dict[str, float] = {}
        for name, cell in cells.items():
            if absent(cell):
                continue
            try:
                values[name] = as_metric(name, quantity(cell))
            except ValueError as error:
                rejects.add("cell", f"{place}: {name}: {error}")
        model = "" if first["name"].endswith("...") else first["name"]
        return Sample(
            time_us, SlotLabels(parse_slot(first["address"]), "", model or self._model), values
        )
