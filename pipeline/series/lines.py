"""The port's columns as InfluxDB line protocol, ready to send.

Measurements (integers end in `i`, all else are floats; absent has no field):

`gpu`: raw samples, tags node, origin, slot; one field per catalogue name.

`gpu_minute`: minute parts, tags node, slot; text fields `part` and `gauges`
and integer fields `holds…`, as `packed` says.  `node_minute`: masks, tag node;
integer fields `run`, `block`, `writer`, `eviction`, `origin`, `mask`.  The time
of both is the minute plus `key_offset_ns`, so that keys that share a minute
are points of their own without a tag each.  64-bit numbers from 2^63 are
written as two's complement.

Lines are padded on the left with spaces, which InfluxDB skips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.identity import slot_text
from collectors.contract.record import Origin
from pipeline.series.columns import select_masks, select_parts, select_raw
from pipeline.series.digits import (
    Bytes,
    Numbers,
    Present,
    Rows,
    floats,
    integers,
    put_digits,
    render,
)
from pipeline.series.packed import holds, pack_counters, pack_gauges
from pipeline.series.port import U64, MinuteParts, NodeMasks, RawSamples, Refused

MINUTE_NS = 60_000_000_000
MASK_FIELDS = ("run", "block", "writer", "eviction", "origin", "mask")
LINES_A_BLOCK = 5_000
"""Lines a request: 5,000 to 10,000 are what the server takes best."""
PARTS_A_BLOCK = 2_000
"""Of minute parts fewer, as they are longer."""
_LEAST_GROUP = 256
"""Lines of one pattern of present fields below which a group of their own does not pay."""
_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})


@dataclass(frozen=True, slots=True)
class Block:
    """Lines for one request, and of how many rows."""

    lines: memoryview
    rows: int


@lru_cache(maxsize=131_072)
@lru_cache(maxsize=1 << 17)
def tag_value(text: str) -> str | None:
    """The text escaped as a tag's value; None where line protocol cannot say it.

    It cannot say an empty value, control characters, or a backslash that would
    escape what follows (https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/).
    """
    if not text or not text.isprintable() or text.endswith("\\") or len(text) > 1_000:
        return None
    if any(pair in text for pair in ("\\,", "\\=", "\\ ")):
        return None
    return text.translate(_ESCAPES)


def key_offset_ns(*keys: U64) -> NDArray[np.int64]:
    """splitmix64 over the keys one after the other, modulo 60 s in ns.

    Each step is h = mix(h + key + 0x9E3779B97F4A7C15) with splitmix64's
    finaliser (Steele, Lea, Flood 2014), from h = 0, all modulo 2^64.
    """
    state = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        state = state + key + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state % np.uint64(MINUTE_NS)).astype(np.int64)


def _u64(column: NDArray[Any]) -> U64:
    return column.astype(np.int64).view(np.uint64)


def unwritable(nodes: Sequence[str], node: NDArray[np.int32]) -> tuple[Present, list[Refused]]:
    """Which rows no line can say because of the node's name, and each as refused."""
    lookup = np.zeros(max(1, len(nodes)), np.bool_)
    for index in np.unique(node).tolist():
        lookup[index] = tag_value(str(nodes[int(index)])) is None
    bad = lookup[node]
    reason = "the node's name cannot be written as a tag"
    return bad, [Refused(reason, nodes[int(index)].encode()) for index in node[bad]]


def _padded(texts: Sequence[bytes]) -> Bytes:
    """The texts as rows of bytes, padded on the left."""
    width = max(map(len, texts))
    joined = b"".join([text.rjust(width) for text in texts])
    return np.frombuffer(joined, np.uint8).reshape(len(texts), width)


@lru_cache(maxsize=1 << 17)
def _head(measurement: str, node: str, origin: int) -> bytes:
    tag = f",origin={Origin(origin).name.lower()}" if origin else ""
    return f"{measurement},node={tag_value(node)}{tag}".encode()


def _prefixes(
    measurement: str, nodes: Sequence[str], node: Any, slot: U64 | None, origin: Any = 0
) -> Bytes:
    """`measurement,tags` of each row, out of texts per node and per slot."""
    codes, row = np.unique(node.astype(np.int64) * 4 + origin, return_inverse=True)
    heads = [_head(measurement, str(nodes[int(code) // 4]), int(code) % 4) for code in codes]
    head = _padded(heads)[row]
    if slot is None:
        return head
    slots, slot_row = np.unique(slot, return_inverse=True)
    texts = [f",slot={slot_text(int(packed))}".encode() for packed in slots]
    tails, sizes = _padded(texts), np.array([len(text) for text in texts])
    length, longest = head.shape[1], tails.shape[1]
    prefix = np.full((len(head), length + longest), ord(" "), np.uint8)
    for size in np.unique(sizes).tolist():
        # Only the left end may be padded, so heads move to where their tails begin.
        rows: Rows = slice(None) if size == sizes.min() == longest else sizes[slot_row] == size
        start = longest - size
        prefix[rows, start : start + length] = head[rows]
        prefix[rows, start + length :] = tails[slot_row[rows], start:]
    return prefix


def _patterns(fields: Sequence[Numbers], rows: int, most: int) -> Iterator[tuple[Rows, bool]]:
    """Rows of a block that have the same fields, and whether they do; small groups as one."""
    masks = [field.present for field in fields if field.present is not None]
    if not masks:
        for start in range(0, rows, most):
            yield slice(start, min(rows, start + most)), True
        return
    for group, same in _groups(masks, rows):
        for start in range(0, len(group), most):
            yield group[start : start + most], same


def _groups(masks: Sequence[Present], rows: int) -> Iterator[tuple[NDArray[np.intp], bool]]:
    bits = np.packbits(np.stack(masks, axis=1), axis=1)
    packed = np.zeros((rows, -(-bits.shape[1] // 8) * 8), np.uint8)
    packed[:, : bits.shape[1]] = bits
    words = packed.view(np.uint64)
    code = (
        words[:, 0]
        if words.shape[1] == 1
        else _u64(np.unique(words, axis=0, return_inverse=True)[1])
    )
    _, inverse, count = np.unique(code, return_inverse=True, return_counts=True)
    large = count >= _LEAST_GROUP
    for group in np.flatnonzero(large):
        yield np.flatnonzero(inverse == group), True
    rest = np.flatnonzero(~large[inverse])
    if len(rest):
        yield rest, False


def _of_group(fields: Sequence[Numbers], rows: Rows, *, same: bool) -> list[Numbers]:
    chosen: list[Numbers] = []
    for field in fields:
        present = None if field.present is None else field.present[rows]
        if present is not None and same:
            if not present[0]:
                continue
            present = None
        chosen.append(field.taken(rows, present))
    return chosen


def _blocks(
    prefix: Bytes,
    fields: Sequence[Numbers],
    times_ns: NDArray[np.int64],
    most: int = LINES_A_BLOCK,
) -> Iterator[Block]:
    for rows, same in _patterns(fields, len(times_ns), most):
        chosen = _of_group(fields, rows, same=same)
        if chosen:
            times = times_ns[rows]
            yield Block(render(prefix[rows], chosen, times), len(times))


def raw_blocks(samples: RawSamples) -> Iterator[Block]:
    """Measurement `gpu`; samples in which nothing is present have no line.

    Nodes must be writable; time is ns since 1970.
    """
    by_name = CATALOGUE.by_name
    fields: list[Numbers | None] = []
    for name, column in samples.values.items():
        metric = by_name[name]
        values: Any = column
        if metric.kind is Kind.GAUGE:
            fields.append(floats(name.encode(), values, metric.decimals))
        else:
            some_absent = values.max(initial=0) == COUNTER_ABSENT
            present = values != np.uint64(COUNTER_ABSENT) if some_absent else None
            fields.append(integers(name.encode(), values, present))
    prefix = _prefixes("gpu", samples.nodes, samples.node, samples.slot, samples.origin)
    yield from _blocks(prefix, [f for f in fields if f is not None], samples.time_us * 1_000)


def _keys(rows: MinuteParts | NodeMasks, names: Sequence[str]) -> list[Numbers]:
    found = (integers(name.encode(), _u64(getattr(rows, name))) for name in names)
    return [field for field in found if field is not None]


def part_times_ns(parts: MinuteParts) -> NDArray[np.int64]:
    """The points' times: minute + key_offset_ns(run, label_epoch, writer, eviction)."""
    offset = key_offset_ns(parts.run, parts.label_epoch, parts.writer, _u64(parts.eviction))
    return parts.minute * MINUTE_NS + offset


def part_blocks(parts: MinuteParts) -> Iterator[Block]:
    """Measurement `gpu_minute`; nodes must be writable.

    Raises ValueError when a point is outside its minute.
    """
    prefix = _prefixes("gpu_minute", parts.nodes, parts.node, parts.slot)
    texts = {b' part="': pack_counters(parts), b'",gauges="': pack_gauges(parts)}
    words, times_ns = holds(parts), part_times_ns(parts)
    for start in range(0, len(parts), PARTS_A_BLOCK):
        rows = slice(start, start + PARTS_A_BLOCK)
        pieces: list[bytes | Bytes] = [prefix[rows]]
        for name, text in texts.items():
            pieces += [name, text[rows]]
        pieces.append(b'"')
        for word, bits in words.items():
            pieces += [b",%s=" % word.encode(), _digits(bits[rows]), b"i"]
        pieces += [b" ", _digits(times_ns[rows].view(np.uint64)), b"\n"]
        yield Block(_side_by_side(pieces, len(times_ns[rows])), len(times_ns[rows]))


def _digits(numbers: U64) -> Bytes:
    """Numbers below 10^19 as 19 digits each."""
    matrix = np.empty((len(numbers), 19), np.uint8)
    put_digits(matrix, 0, 19, numbers)
    return matrix


def _side_by_side(pieces: Sequence[bytes | Bytes], rows: int) -> memoryview:
    columns = [np.frombuffer(p, np.uint8)[None] if isinstance(p, bytes) else p for p in pieces]
    matrix = np.empty((rows, sum(column.shape[1] for column in columns)), np.uint8)
    start = 0
    for column in columns:
        matrix[:, start : start + column.shape[1]] = column
        start += column.shape[1]
    return matrix.ravel().data


def mask_blocks(masks: NodeMasks) -> Iterator[Block]:
    """Measurement `node_minute`; time is minute + key_offset_ns(run, block, writer, eviction)."""
    prefix = _prefixes("node_minute", masks.nodes, masks.node, None)
    keys = (masks.run, _u64(masks.block), masks.writer, _u64(masks.eviction))
    times_ns = masks.minute * MINUTE_NS + key_offset_ns(*keys)
    yield from _blocks(prefix, _keys(masks, MASK_FIELDS), times_ns)


def writable_raw(samples: RawSamples) -> tuple[RawSamples, list[Refused]]:
    """The samples that a line can say, and the others as refused."""
    bad, refused = unwritable(samples.nodes, samples.node)
    return (select_raw(samples, ~bad) if refused else samples), refused


def writable_parts(parts: MinuteParts) -> tuple[MinuteParts, list[Refused]]:
    """The parts that a line can say, and the others as refused."""
    bad, refused = unwritable(parts.nodes, parts.node)
    return (select_parts(parts, ~bad) if refused else parts), refused


def writable_masks(masks: NodeMasks) -> tuple[NodeMasks, list[Refused]]:
    """The masks that a line can say, and the others as refused."""
    bad, refused = unwritable(masks.nodes, masks.node)
    return (select_masks(masks, ~bad) if refused else masks), refused
