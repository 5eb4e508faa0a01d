"""The frame and the detail of one moment, as they go out on `petawatch.live`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from pipeline.books.claim_index import MAINTENANCE
from pipeline.watch import frame
from pipeline.watch.figures import Moment, totals
from pipeline.watch.layout import FleetLayout
from pipeline.watch.sums import Summable

TOP_TENANTS, HOTTEST, ATTENTION = 12, 10, 12
_DIGITS = {
    "pflops": 4,
    "pflops_nameplate": 3,
    "power_kw": 2,
    "utilization": 4,
    "temperature_max_c": 1,
}
_OF_NODES = ("pflops", "power_kw", "utilization")
_COUNTS = ("gpus_installed", "gpus_reporting", "active", "gpus")


def _listed(name: str, column: NDArray[np.float64]) -> list[float | None]:
    """A column for JSON, absent as None."""
    values: list[float] = np.round(column, _DIGITS[name]).tolist()
    return [None if value != value else value for value in values]  # noqa: PLR0124


def _rows(sums: dict[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """One row per index, absent as None."""
    columns: list[list[Any]] = []
    for name, column in sums.items():
        if name in _COUNTS:
            columns.append(column.astype(np.int64).tolist())
        else:
            columns.append(_listed(name, column))
    names = list(sums)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class Snapshot:
    """All that is said of one moment."""

    def __init__(
        self, moment: Moment, layout: FleetLayout, tenants: Sequence[str], time_us: int
    ) -> None:
        self._moment = moment
        self._layout = layout
        self._names = tenants
        self._time_us = time_us
        self._summable = Summable(moment, layout)
        self.tenants = self._tenants()

    def _tenants(self) -> list[dict[str, Any]]:
        """All tenants that hold GPUs, most PFLOPS first."""
        sums = self._summable.by(self._moment.owner, len(self._names)).figures()
        sums["gpus"] = sums.pop("gpus_installed")
        rows = [
            {"tenant": self._names[code], "code": code, **row}
            for code, row in enumerate(_rows(sums))
            if code > MAINTENANCE and row["gpus"]
        ]
        return sorted(rows, key=lambda row: (-(row["pflops"] or 0.0), row["tenant"]))

    def header(self, number: int, lag_s: float, gap_us: float | None) -> dict[str, Any]:
        """The frame's header, without `columns`; `gap_us` is usual between a GPU's records."""
        m, site = self._moment, self._layout.inventory
        time = datetime.fromtimestamp(self._time_us / 1e6, UTC)
        top = [{k: v for k, v in row.items() if k != "code"} for row in self.tenants[:TOP_TENANTS]]
        return {
            "time_us": self._time_us,
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "site": site.name,
            "title": site.title,
            "origin": Origin(m.origin).name.lower() if m.origin else "none",
            "layout": site.layout_id,
            "frame": number,
            **totals(self._moment, self._layout),
            "method": "tensor-pipe activity × SM clock" if m.measured.any() else "none",
            "lag_s": round(lag_s, 3),
            "gap_s": None if gap_us is None else round(gap_us / 1e6, 3),
            "hottest": self._hottest(),
            "attention": self._attention(),
            "tenants": top,
        }

    def _hottest(self) -> list[dict[str, Any]]:
        m, layout = self._moment, self._layout
        heat = np.nan_to_num(m.temperature_c, nan=-np.inf)
        some = min(HOTTEST, len(heat))
        top = np.argpartition(-heat, some - 1)[:some] if some else np.zeros(0, np.intp)
        order: list[int] = sorted(top.tolist(), key=lambda at: (-heat[at], at))
        return [
            {
                "gpu": layout.short[at],
                "node": layout.places[at][0],
                "slot": slot_text(layout.places[at][1]),
                "temperature_c": round(float(m.temperature_c[at]), 1),
                "margin_c": _value(m.margin_c, at, 1),
                "power_w": _value(m.power_w, at, 1),
                "utilization": _value(m.utilization, at, 3),
                "tenant": self._names[int(m.owner[at])] if m.allocated[at] else None,
            }
            for at in order
            if heat[at] > -np.inf
        ]

    def _attention(self) -> list[dict[str, Any]]:
        """Nodes with GPUs that are down, silent or throttled, worst first, and whose work it hits."""
        m, layout = self._moment, self._layout
        found: list[dict[str, Any]] = []
        kinds = (("down", m.down), ("silent", ~m.reporting & ~m.down), ("throttled", m.throttled))
        for kind, flags in kinds:
            at = np.flatnonzero(flags)
            nodes, first, count = np.unique(layout.node[at], return_index=True, return_counts=True)
            rows = sorted(
                zip(count.tolist(), nodes.tolist(), at[first].tolist(), strict=True),
                key=lambda row: (-row[0], row[1]),
            )
            found += [self._trouble(kind, *row) for row in rows[: ATTENTION - len(found)]]
        return found

    def _trouble(self, kind: str, gpus: int, node: int, first: int) -> dict[str, Any]:
        entry = self._layout.nodes[node]
        tenant = (
            self._names[int(self._moment.owner[first])] if self._moment.allocated[first] else None
        )
        return {
            "kind": kind,
            "node": entry.name,
            "rack": entry.rack,
            "gpus": gpus,
            "tenant": tenant,
        }

    def detail(self, header: dict[str, Any]) -> dict[str, Any]:
        """The whole snapshot: the header with all tenants, racks, halls and missing nodes, and
        the sums of nodes in columns, since there are many."""
        m, layout = self._moment, self._layout
        by_node = self._summable.by(layout.node, len(layout.nodes))
        by_rack = by_node.by(layout.rack_of_node, len(layout.racks))
        racks = by_rack.figures()
        halls = by_rack.by(layout.hall_of_rack, len(layout.halls)).figures()
        missing = [
            node.name for node, up in zip(layout.nodes, m.nodes_reporting, strict=True) if not up
        ]
        return {
            **header,
            "tenants": [{k: v for k, v in row.items() if k != "code"} for row in self.tenants],
            "racks": [
                {"hall": hall, "rack": rack, **row}
                for (hall, rack), row in zip(layout.racks, _rows(racks), strict=True)
            ],
            "halls": [
                {"hall": hall, **row} for hall, row in zip(layout.halls, _rows(halls), strict=True)
            ],
            "nodes_missing": missing,
            "nodes": {
                "node": [node.name for node in layout.nodes],
                **{name: _listed(name, by_node.figures()[name]) for name in _OF_NODES},
            },
        }

    def columns(self) -> dict[str, NDArray[np.uint8]]:
        """The frame's columns, uint8[N] each."""
        m = self._moment
        share = m.pflops / self._layout.pflops
        values = {
            "temperature_c": m.temperature_c, "utilization": m.utilization,
            "power_w": m.power_w, "delivered": share,
        }  # fmt: skip
        columns = {n: frame.quantize(v, frame.SCALE[n]) for n, v in values.items()}
        state = np.zeros(len(share), np.uint8)
        for bit, flags in (
            (frame.REPORTING, m.reporting), (frame.ACTIVE, m.active),
            (frame.THROTTLED, m.throttled), (frame.DOWN, m.down),
            (frame.ALLOCATED, m.allocated), (frame.POWER_CAPPED, m.power_capped),
        ):  # fmt: skip
            state |= np.where(flags, bit, 0).astype(np.uint8)
        rank = np.full(len(self._names), frame.OTHER_TENANT, np.uint8)
        rank[: MAINTENANCE + 1] = frame.NO_TENANT
        for at, row in enumerate(self.tenants[:TOP_TENANTS]):
            rank[row["code"]] = at
        return {**columns, "state": state, "tenant": rank[m.owner]}


def _value(column: NDArray[np.float64], at: int, digits: int) -> float | None:
    value = float(column[at])
    return None if np.isnan(value) else round(value, digits)
