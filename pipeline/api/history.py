"""The fleet's figures of the last minutes, as columns for the charts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

MAX_ENTRIES = 1_800
FIGURES = (
    "pflops_delivered",
    "pflops_allocated",
    "power_kw",
    "gpus_active",
    "temperature_max_c",
    "gpus_reporting",
)
_Entry = tuple[int, tuple[float | None, ...]]


class History:
    """At most 1,800 entries, strictly increasing in event time."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque(maxlen=MAX_ENTRIES)

    def add(self, header: Mapping[str, Any]) -> None:
        """Appends a frame's figures; later ones go when time has been set back."""
        time_us: int = header["time_us"]
        while self._entries and self._entries[-1][0] >= time_us:
            self._entries.pop()
        temperature: Mapping[str, float] = header.get("temperature_c") or {}
        flat = {**header, "temperature_max_c": temperature.get("max")}
        self._entries.append((time_us, tuple(flat.get(name) for name in FIGURES)))

    def columns(self, minutes: float) -> dict[str, list[Any]]:
        """`time_us` and the figures of the last minutes before the newest entry; None is absent."""
        newest_us = self._entries[-1][0] if self._entries else 0
        chosen = [e for e in self._entries if e[0] > newest_us - minutes * 60e6]
        columns: dict[str, list[Any]] = {"time_us": [time_us for time_us, _ in chosen]}
        for index, name in enumerate(FIGURES):
            columns[name] = [values[index] for _, values in chosen]
        return columns
