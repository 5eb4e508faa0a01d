"""GPU-time that tenants held and that did nothing, found in GPU-minutes.

Minutes and claims in, spells out; the same functions of `pipeline.waste` that
alerts use say what is waste.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.identity import slot_text
from collectors.contract.inventory import Inventory
from pipeline import waste
from pipeline.books.cells import origin_text
from pipeline.books.claims import Claim, Holder, Owner
from pipeline.books.journal import Models
from pipeline.books.places import NOWHERE, Places
from pipeline.series.columns import group_rows, merge_parts, select_parts
from pipeline.series.port import MinuteParts

DEFINITION = "waste/1"
GAUGES = (
    "gpu_utilization", "tensor_activity", "power_w", "dram_activity", "fp64_activity",
    "fp32_activity",
)  # fmt: skip
COUNTERS = ("active_us", "observed_us", "nvlink_tx_bytes", "nvlink_rx_bytes")
MINUTE_US = 60_000_000
_EVIDENCE = {
    "tensor": "tensor_activity", "nvlink": "nvlink_bytes_per_s", "power_w": "power_w",
    "dram": "dram_activity", "fp64": "fp64_activity", "fp32": "fp32_activity",
}  # fmt: skip
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Minutes:
    """One row per (node, slot, minute), in that order: columns of N.

    `idle` is the share of the observed time without work; of gauges the
    extremes that speak against waste; all NaN where absent.
    """

    nodes: Sequence[str]
    node: NDArray[np.int32]
    slot: NDArray[np.uint64]
    minute: I64
    origin: NDArray[np.uint8]
    idle: F64
    signals: waste.Signals


def minutes_of(parts: MinuteParts, loaded_idle_w: Mapping[str, float | None]) -> Minutes:
    """The minutes out of stored parts; `loaded_idle_w` is by node."""
    merged = merge_parts(parts)
    order, starts = group_rows((merged.node, merged.slot, merged.minute))
    merged = select_parts(merged, order)
    gauges = merged.gauges

    def highest(name: str) -> F64:
        # NaN wins: what one of two runs did not see is not known of the minute.
        return _reduced(np.maximum, gauges[name].maximum, starts)

    heads = select_parts(merged, starts)
    loaded = [loaded_idle_w.get(str(name)) for name in merged.nodes]
    by_node = np.array([np.nan if one is None else one for one in loaded] or [np.nan])
    signals = waste.Signals(
        _reduced(np.minimum, gauges["gpu_utilization"].minimum, starts),
        highest("tensor_activity"),
        _rate(merged, "nvlink_tx_bytes", starts) + _rate(merged, "nvlink_rx_bytes", starts),
        highest("power_w"),
        by_node[heads.node],
        highest("dram_activity"),
        highest("fp64_activity"),
        highest("fp32_activity"),
    )
    observed, active = _rise(merged, "observed_us", starts), _rise(merged, "active_us", starts)
    idle = np.full(len(starts), np.nan)
    np.divide(observed - active, observed, out=idle, where=observed > 0)
    return Minutes(heads.nodes, heads.node, heads.slot, heads.minute, heads.origin, idle, signals)


def _reduced(ufunc: np.ufunc, column: NDArray[np.floating[Any]], starts: NDArray[np.intp]) -> F64:
    if not len(starts):
        return np.empty(0)
    return ufunc.reduceat(column.astype(np.float64), starts)


def _rise(parts: MinuteParts, name: str, starts: NDArray[np.intp]) -> F64:
    span = parts.counters[name]
    there = span.first != COUNTER_ABSENT
    rise = np.where(there, (span.last - span.first).astype(np.float64), np.nan)
    return _reduced(np.add, rise, starts)


def _rate(parts: MinuteParts, name: str, starts: NDArray[np.intp]) -> F64:
    span = parts.counters[name]
    seconds = _reduced(np.add, (span.last_us - span.first_us) / 1e6, starts)
    rate = np.full(len(starts), np.nan)
    return np.divide(_rise(parts, name, starts), seconds, out=rate, where=seconds > 0)


def waste_in(
    parts: MinuteParts,
    claims: Mapping[str, Sequence[Claim]],
    inventory: Inventory,
    nodes: Sequence[str],
    span_us: tuple[int, int],
    limits: waste.Limits = waste.USUAL,
) -> list[dict[str, Any]]:
    """A row per GPU and time of waste, the longest first, with the evidence for it.

    A minute counts where one owner held the slot for all of it.
    """
    places = Places(inventory, claims, nodes, *span_us)
    models = Models(inventory)
    hour = span_us[0] // 3_600_000_000
    of_node = {node: models.at(node, hour) for node in nodes}
    loaded = {node: waste.loaded_idle_w(model) for node, model in of_node.items()}
    minutes = minutes_of(parts, loaded)
    holders, holder = _held(minutes, places)
    found = {
        "idle": (minutes.idle >= limits.idle_share, limits.idle_minutes),
        "hung": (waste.hung(minutes.signals, limits), limits.hung_minutes),
        "cannot_tell": (waste.cannot_tell(minutes.signals, limits), limits.hung_minutes),
    }
    group = _groups(minutes, holder)
    rows: list[dict[str, Any]] = []
    for kind, (holds, least) in found.items():
        for start, stop in waste.spells(
            group, minutes.minute, holds & (holder >= 0), least
        ).tolist():
            about = {"kind": kind, "model": of_node[str(minutes.nodes[int(minutes.node[start])])]}
            spell = {**about, **_spell(minutes, slice(start, stop))}
            rows += [{**_whose(one), **spell} for one in _owners(holders[int(holder[start])])]
    return sorted(rows, key=lambda row: (-row["minutes"], row["tenant"], row["node"], row["slot"]))


def _held(minutes: Minutes, places: Places) -> tuple[list[Holder], I64]:
    """Who there is, and of each minute the index of the tenants who had the slot in all of it,
    -1 where they did not."""
    keys = zip(minutes.node.tolist(), minutes.slot.tolist(), strict=True)
    place = np.array(
        [places.index.get((str(minutes.nodes[node]), slot), -1) for node, slot in keys], np.int64
    )
    table, rows = places.table(), places.rows
    start_us = minutes.minute * MINUTE_US
    first = table.find(np.maximum(place, 0), start_us)
    last = table.find(np.maximum(place, 0), start_us + MINUTE_US - 1)
    row = table.row[first]
    known = (place >= 0) & (row != NOWHERE) & (first == last)
    owner = np.array([*rows.owner, 0], np.int64)[np.where(known, row, -1)]
    holders = list(rows.owners)
    tenants = np.array([bool(list(_owners(one))) for one in holders] or [False])
    return holders, np.where(known & tenants[owner], owner, -1)


def _owners(holder: Holder) -> Iterator[Owner]:
    """The tenants among those who hold a slot, each once."""
    all_of_them = [holder] if isinstance(holder, Owner) else [s.owner for s in holder.shares]
    yield from dict.fromkeys(one for one in all_of_them if one.kind == "tenant")


def _whose(owner: Owner) -> dict[str, str]:
    return {"tenant": owner.tenant, "project": owner.project, "job": owner.job}


def _groups(minutes: Minutes, holder: I64) -> I64:
    """A number that changes with the node, the slot or the owner."""
    changed = np.zeros(len(minutes.minute), np.bool_)
    for column in (minutes.node, minutes.slot, holder):
        changed[1:] |= column[1:] != column[:-1]
    return np.cumsum(changed).astype(np.int64)


def _spell(minutes: Minutes, rows: slice) -> dict[str, Any]:
    """Where, when and what speaks for it; extremes over the time, None for what is absent."""
    signals = minutes.signals
    highest = {name: _extreme(getattr(signals, name)[rows]) for name in _EVIDENCE}
    lowest = signals.utilization[rows]
    return {
        "node": str(minutes.nodes[int(minutes.node[rows.start])]),
        "slot": slot_text(int(minutes.slot[rows.start])),
        "origin": origin_text(int(minutes.origin[rows].max())),
        "from_us": int(minutes.minute[rows.start]) * MINUTE_US,
        "to_us": (int(minutes.minute[rows.stop - 1]) + 1) * MINUTE_US,
        "minutes": rows.stop - rows.start,
        "idle_share": _mean(minutes.idle[rows]),
        "utilization_min": None if np.isnan(lowest).any() else float(lowest.min()),
        **{f"{_EVIDENCE[name]}_max": value for name, value in highest.items()},
        "loaded_idle_w": _extreme(signals.idle_loaded_w[rows]),
        "missing": [_EVIDENCE[name] for name, value in highest.items() if value is None],
    }


def _extreme(column: F64) -> float | None:
    return None if np.isnan(column).any() else float(column.max())


def _mean(column: F64) -> float | None:
    return None if np.isnan(column).any() else float(column.mean())
