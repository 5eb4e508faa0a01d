"""Where two ledgers differ: what both stores keep of those node-hours, and whether all records are on the bus."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from chaos_ledger import Ledger

from collectors.contract.topics import GPU
from collectors.kit.clock import SystemClock
from pipeline.books.rows import HOUR_MINUTES
from pipeline.bus import open_bus
from pipeline.commands.site import NO_SITE
from pipeline.commands.wiring import install
from pipeline.series.columns import merge_parts
from pipeline.series.port import MinuteParts
from pipeline.settings import Settings

_AROUND = 2
"""Minutes of either side of an hour that its rows may be made of."""
Points = dict[tuple[Any, ...], dict[str, tuple[int, ...]]]
"""By node, minute, slot, run and label epoch the kept points by counter."""


def node_hours_apart(expected: Ledger, actual: Ledger) -> list[tuple[int, str]]:
    """(hour, node) of the rows of `hours` that differ, in order."""
    left, right = expected["hours"], actual["hours"]
    keys = [key for key in {*left, *right} if left.get(key) != right.get(key)]
    return sorted({(int(hour), str(node)) for hour, node, *_ in map(ast.literal_eval, keys)})


async def minutes_apart(
    expected: Settings, actual: Settings, node_hours: Iterable[tuple[int, str]], most: int = 40
) -> list[str]:
    """Lines that say which kept points differ, and how; the first `most`."""
    found: list[str] = []
    for hour, node in node_hours:
        left, right = await _points(expected, hour, node), await _points(actual, hour, node)
        for key in sorted({*left, *right}):
            a, b = left.get(key), right.get(key)
            if a != b:
                found.append(f"{key}: {_apart(a, b)}")
    return found[:most]


async def records_apart(expected: Settings, actual: Settings) -> str:
    """How many distinct records of the GPU topic are missing, and are on the bus besides."""
    left, right = await _records(expected), await _records(actual)
    return f"{len(left - right)} of {len(left)} records missing, {len(right - left)} besides"


async def _records(settings: Settings) -> set[bytes]:
    bus = open_bus(settings.bus, SystemClock())
    consumer = bus.consumer([GPU], None)
    await consumer.start()
    ends, found = await consumer.end_offsets(), set[bytes]()
    reached = dict.fromkeys(ends, 0)
    while any(reached[one] < end for one, end in ends.items()):
        for chunk in await consumer.fetch(2.0):
            reached[chunk.partition] = chunk.next_offset
            found.update(chunk.values)
    await consumer.stop()
    await bus.close()
    return found


def _apart(a: dict[str, tuple[int, ...]] | None, b: dict[str, tuple[int, ...]] | None) -> str:
    if a is None or b is None:
        there = a or b or {}
        return f"{'missing' if b is None else 'extra'} ({len(there)} counters)"
    names = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
    return ", ".join(f"{name} {a.get(name)} → {b.get(name)}" for name in names[:3])


async def _points(settings: Settings, hour: int, node: str) -> Points:
    installation = install(settings, SystemClock(), NO_SITE, series=True, books=False)
    series = installation.opened_series()
    await series.start()
    try:
        low = hour * HOUR_MINUTES - _AROUND
        parts = await series.minutes(low, low + HOUR_MINUTES + 2 * _AROUND, nodes=[node], gauges=())
    finally:
        await installation.close()
    return _by_key(merge_parts(parts))


def _by_key(parts: MinuteParts) -> Points:
    keys: Sequence[Any] = [
        [parts.nodes[one] for one in parts.node.tolist()],
        parts.minute.tolist(), parts.slot.tolist(), parts.run.tolist(), parts.label_epoch.tolist(),
    ]  # fmt: skip
    points: Points = {key: {} for key in zip(*keys, strict=True)}
    for name, span in parts.counters.items():
        columns = (span.first_us, span.first, span.last_us, span.last)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for key, row in zip(points, rows, strict=True):
            if row != _NOTHING:
                points[key][name] = row
    return points


_NOTHING = (0, 2**64 - 1, 0, 2**64 - 1)
