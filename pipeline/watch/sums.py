"""Sums over GPUs by tenant, node, rack and hall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.watch.figures import F64, Moment
from pipeline.watch.layout import FleetLayout

_COUNTED = ("gpus_installed", "gpus_reporting", "active", "pflops_nameplate")
_MEASURED = ("pflops", "power_kw", "utilization")


class Summable:
    """The columns that are added up, made once and then summed by several indexes."""

    def __init__(self, moment: Moment, layout: FleetLayout) -> None:
        self._temperature_c = np.nan_to_num(moment.temperature_c, nan=-np.inf)
        self._columns: dict[str, NDArray[np.float64]] = {
            "gpus_installed": np.ones(len(layout.pflops)),
            "gpus_reporting": moment.reporting.astype(np.float64),
            "active": moment.active.astype(np.float64),
            "pflops_nameplate": layout.pflops,
        }
        measured = {
            "pflops": moment.pflops,
            "power_kw": moment.power_w * 1e-3,
            "utilization": moment.utilization,
        }
        for name, values in measured.items():
            known = ~np.isnan(values)
            self._columns[name] = np.where(known, values, 0.0)
            self._columns[f"known {name}"] = known.astype(np.float64)

    def by(self, index: NDArray[np.int32], n: int) -> Sums:
        """Sums over GPUs by an index (tenant, rack): each float64[n]."""
        sums = {
            name: np.bincount(index, column, n).astype(np.float64)
            for name, column in self._columns.items()
        }
        hottest = np.full(n, -np.inf)
        np.maximum.at(hottest, index, self._temperature_c)
        return Sums(sums, hottest)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums by one index, which can be added up further (racks to halls)."""

    columns: dict[str, F64]
    hottest_c: F64

    def by(self, index: NDArray[np.int32], n: int) -> Sums:
        """Sums of these sums by another index over them."""
        sums = {
            name: np.bincount(index, column, n).astype(np.float64)
            for name, column in self.columns.items()
        }
        hottest = np.full(n, -np.inf)
        np.maximum.at(hottest, index, self.hottest_c)
        return Sums(sums, hottest)

    def figures(self) -> dict[str, F64]:
        """The figures shown; one of which nothing is known is NaN, `utilization` a mean."""
        out = {name: self.columns[name] for name in _COUNTED}
        for name in _MEASURED:
            known = self.columns[f"known {name}"]
            out[name] = np.where(known > 0, self.columns[name], np.nan)
            if name == "utilization":
                out[name] /= np.maximum(known, 1)
        hottest = self.hottest_c
        out["temperature_max_c"] = np.where(np.isinf(hottest), np.nan, hottest)
        return out
