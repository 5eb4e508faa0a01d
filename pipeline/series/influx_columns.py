"""What InfluxDB answers, already columns by name, as the port's columns.

Integers come as uint64 (`COUNTER_ABSENT` where there is no field), floats as
float32 (NaN), tags as strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import COUNTER_ABSENT, Kind, Metric
from collectors.contract.identity import parse_slot
from collectors.contract.record import Origin
from pipeline.series.columns import empty_masks, empty_parts, empty_raw, select_raw
from pipeline.series.port import I32, I64, U64, MinuteParts, NodeMasks, RawSamples
from pipeline.series.unpacked import unpack_counters, unpack_gauges

Answer = Mapping[str, NDArray[Any]]
_MINUTE_NS = np.int64(60_000_000_000)


def coded(texts: Sequence[str]) -> tuple[list[str], I32]:
    """The distinct texts, and each text's index among them."""
    table: dict[str, int] = {}
    codes = [table.setdefault(text, len(table)) for text in texts]
    return list(table), np.array(codes, np.int32)


def _slots(texts: Sequence[str]) -> U64:
    names, codes = coded(texts)
    return np.array([parse_slot(name) for name in names], np.uint64)[codes]


def _minutes(answer: Answer) -> I64:
    return answer["time"].view(np.int64) // _MINUTE_NS


def place_of(tags: str) -> tuple[str, int]:
    """(node, slot) of `node=…,slot=…`, as InfluxQL names a group."""
    node, _, slot = tags.removeprefix("node=").rpartition(",slot=")
    return node, parse_slot(slot)


def parts_of(answer: Answer, counters: Sequence[Metric], gauges: Sequence[Metric]) -> MinuteParts:
    """Points of `gpu_minute` as parts; raises UnpackableError for what another version wrote."""
    if not len(answer["time"]):
        return empty_parts((m.name for m in counters), (m.name for m in gauges))
    nodes, node = coded(answer["node"].tolist())
    minute = _minutes(answer)
    keys, spans = unpack_counters(answer["part"].tolist(), minute, counters)
    return MinuteParts(
        nodes=nodes,
        node=node,
        slot=_slots(answer["slot"].tolist()),
        minute=minute,
        **keys,
        counters=spans,
        gauges=unpack_gauges(answer["gauges"].tolist(), minute, gauges) if gauges else {},
    )


def masks_of(answer: Answer) -> NodeMasks:
    """Points of `node_minute` as masks."""
    if not len(answer["time"]):
        return empty_masks()
    nodes, node = coded(answer["node"].tolist())
    return NodeMasks(
        nodes=nodes,
        node=node,
        minute=_minutes(answer),
        run=answer["run"],
        block=answer["block"].view(np.int64),
        writer=answer["writer"],
        eviction=answer["eviction"].astype(np.int32),
        origin=answer["origin"].astype(np.uint8),
        mask=answer["mask"],
    )


def samples_of(answer: Answer, node: str, metrics: Sequence[Metric]) -> RawSamples:
    """Points of `gpu` of one node, in order of (slot, time)."""
    rows = len(answer["time"])
    if not rows:
        return empty_raw()
    origins, origin = coded(answer["origin"].tolist())
    numbers = np.array([Origin[name.upper()] for name in origins], np.uint8)
    values: dict[str, Any] = {}
    for metric in metrics:
        column = answer[metric.name]
        absent = np.isnan(column) if metric.kind is Kind.GAUGE else column == COUNTER_ABSENT
        if not absent.all():
            values[metric.name] = column
    samples = RawSamples(
        nodes=[node],
        node=np.zeros(rows, np.int32),
        slot=_slots(answer["slot"].tolist()),
        time_us=answer["time"].view(np.int64) // 1_000,
        origin=numbers[origin],
        values=values,
    )
    return select_raw(samples, np.lexsort((samples.origin, samples.time_us, samples.slot)))
