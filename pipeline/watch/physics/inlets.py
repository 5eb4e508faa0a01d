"""The measured inlet of each rack, where the site has a sensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.physics.layout import Places

Floats = NDArray[np.floating[Any]]
State = dict[str, NDArray[Any]]

_RECENT_S, _REFERENCE_S = 300.0, 3 * 86_400.0


class Inlets:
    """Columns over the sorted racks, °C, NaN where there is no sensor."""

    def __init__(self, places: Places) -> None:
        self._number = places.rack.number
        racks = places.rack.size
        self.now: Floats = np.full(racks, np.nan, np.float32)
        self.recent: Floats = np.full(racks, np.nan, np.float32)
        """Mean of the last minutes."""
        self.reference: Floats = np.full(racks, np.nan, np.float32)
        """Mean of the last days."""
        self._seen_s: Floats = np.zeros(racks, np.float32)

    def follow(self, inlet_c: Floats, step_s: float) -> None:
        """Takes a tick in; `inlet_c` is per rack of the fleet's layout."""
        self.now = inlet_c[self._number].astype(np.float32)
        told = ~np.isnan(self.now)
        new = told & np.isnan(self.recent)
        self.recent[new] = self.reference[new] = self.now[new]
        self._seen_s += told * np.float32(step_s)
        gain = told * np.float32(-np.expm1(-step_s / _RECENT_S))
        off = np.where(told, self.now, self.recent)
        self.recent += gain * (off - self.recent)
        slow = told * np.float32(step_s) / np.clip(self._seen_s, max(600.0, step_s), _REFERENCE_S)
        self.reference += slow * (off - self.reference)

    def beyond(self) -> Floats:
        """How much warmer than its reference each rack's inlet is; 0 where none is measured."""
        off = self.now - self.reference
        return np.where(np.isnan(off), np.float32(0), off)

    def before(self, rack: int, *, sudden: bool) -> float | None:
        """What a rack's inlet was before something changed; None without a sensor."""
        value = float((self.recent if sudden else self.reference)[rack])
        return None if np.isnan(value) else value

    def state(self) -> State:
        """All that was learnt, as arrays."""
        return {"recent": self.recent, "reference": self.reference, "seen_s": self._seen_s}

    def load(self, state: State) -> None:
        """Takes a state over that `state` gave."""
        for name, column in self.state().items():
            column[...] = state[name]
