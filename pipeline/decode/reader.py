"""Reads a whole fetch of node records into columns.

Records of a known layout are joined into one byte matrix and cut into arrays.
A new layout is learnt from its first record and checked once against the
ordinary Protobuf parser; what cannot be learnt goes through that parser.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from collectors.contract.record import SCHEMA_VERSION, NodeRecord
from collectors.contract.schema import message_class
from collectors.contract.wire import MAX_SLOTS, BrokenRecordError, parse
from pipeline.decode.assemble import Assembler, Cut, Parsed, Piece, payload
from pipeline.decode.batch import Broken, Decoded, Labels, Wanted
from pipeline.decode.gather import Joined, Output
from pipeline.decode.layout import (
    LABELS_TAG,
    Layout,
    UnusualError,
    learn,
    only_labels,
    scan,
    split_labels,
)
from pipeline.decode.slots import SlotTable

_MOST_LAYOUTS = 512
_MOST_IDENTITIES = 1_000_000
_BAD_PLACE = -1
_AFTER = (b"", bytes((LABELS_TAG,)))
"""What may come after a layout's bytes: nothing, or labels."""


class Reader:
    """Decodes fetches; remembers layouts and identities in bounded tables."""

    def __init__(self, table: SlotTable, metrics: Wanted | None = None) -> None:
        """`metrics` are those cut out, in the order of the columns; None for all."""
        self._table = table
        self._layouts: dict[int, list[Layout]] = {}
        self._identities: dict[bytes, int] = {}
        self._message = message_class()
        self._assembler = Assembler(metrics or Wanted.all(), table)

    def read(self, values: Sequence[bytes]) -> Decoded:
        """Columns of all records that are valid, and the reasons for those that are not."""
        out = Output()
        fast: dict[int, Joined] = {}
        unknown = self._sort(values, fast)
        rest = self._sort_labelled(unknown, values, fast, out)
        while rest:
            layout = self._meet(rest[0], values[rest[0]], fast, out)
            del rest[0]
            if layout is not None:
                # Where one of a kind is new, many are: only the first is scanned.
                rest = self._fit(layout, rest, values, fast, out)
        pieces: list[Piece] = []
        for batch in fast.values():
            pieces.extend(self._cut(batch, values, out))
        by_count: dict[int, list[tuple[int, NodeRecord]]] = defaultdict(list)
        for index in out.slow:
            try:
                record = parse(values[index])
            except BrokenRecordError as error:
                out.broken.append(Broken(index, error.reason, str(error)))
                continue
            if record.labels:
                out.labels.append((index, Labels(record)))
            by_count[len(record.slots)].append((index, record))
        pieces.extend(self._parsed(records) for records in by_count.values())
        return Decoded(self._assembler.groups(pieces), out.labels, out.broken)

    def _sort(self, values: Sequence[bytes], fast: dict[int, Joined]) -> list[int]:
        """Puts each record to a known layout; returns the indices that fit none."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(map(len, values)):
            by_length[length].append(index)
        unknown: list[int] = []
        for length, indices in by_length.items():
            if length not in self._layouts:
                unknown.extend(indices)
                continue
            left = np.array(indices, np.intp)
            joined = b"".join([values[i] for i in indices])
            matrix = np.frombuffer(joined, np.uint8).reshape(-1, length)
            for layout in self._layouts[length]:
                if not len(left):
                    break
                fits = layout.fits(matrix)
                if fits.all():
                    fast[id(layout)] = Joined(layout, left.tolist(), matrix)
                elif fits.any():
                    fast[id(layout)] = Joined(layout, left[fits].tolist(), matrix[fits])
                left, matrix = left[~fits], matrix[~fits]
            unknown.extend(left.tolist())
        return unknown

    def _sort_labelled(
        self, indices: list[int], values: Sequence[bytes], fast: dict[int, Joined], out: Output
    ) -> list[int]:
        """Puts records that are a known layout and labels behind it to that layout.

        A node sends its labels once a minute, so that at any second some do:
        scanning each for where its labels begin would cost as much as all the rest.
        """
        for layouts in self._layouts.values():
            for layout in layouts:
                indices = self._fit(layout, indices, values, fast, out)
        return indices

    def _fit(
        self,
        layout: Layout,
        indices: list[int],
        values: Sequence[bytes],
        fast: dict[int, Joined],
        out: Output,
    ) -> list[int]:
        """Puts records to a layout that they are, labels behind it or none; returns the others."""
        size = layout.length
        alike = [
            i for i in indices if values[i][size : size + 1] in _AFTER and len(values[i]) >= size
        ]
        joined = b"".join([values[i][:size] for i in alike])
        fits = layout.fits(np.frombuffer(joined, np.uint8).reshape(-1, size))
        taken: set[int] = set()
        for at in np.flatnonzero(fits).tolist():
            index = alike[at]
            if len(values[index]) > size:
                labels = self._labels(values[index][size:])
                if labels is None:
                    continue
                out.labels.append((index, labels))
            taken.add(index)
            fast.setdefault(id(layout), Joined(layout)).add(index, values[index][:size])
        return [i for i in indices if i not in taken]

    def _labels(self, tail: bytes) -> Labels | None:
        """The labels at a record's end; None where there is anything else.

        They are by themselves a message of the same type.
        """
        message = self._message()
        try:
            message.ParseFromString(tail)
        except DecodeError:
            return None
        return Labels(message) if only_labels(tail) else None

    def _meet(self, index: int, data: bytes, fast: dict[int, Joined], out: Output) -> Layout | None:
        """A record of no known layout: learns it, or leaves it to the parser; returns what is new."""
        new: Layout | None = None
        try:
            fields = scan(data)
            length = split_labels(fields, data)
            layout = self._known(data, length)
            if layout is None:
                layout = new = self._learn(learn(fields, data, length), data)
            if length < len(data):
                labels = self._labels(data[length:])
                if labels is None:
                    raise UnusualError("labels")
                out.labels.append((index, labels))
        except (UnusualError, BrokenRecordError):
            out.slow.append(index)
            return new
        fast.setdefault(id(layout), Joined(layout)).add(index, data[:length])
        return new

    def _known(self, data: bytes, length: int) -> Layout | None:
        row = np.frombuffer(data, np.uint8, count=length).reshape(1, length)
        return next((x for x in self._layouts.get(length, ()) if x.fits(row)[0]), None)

    def _learn(self, layout: Layout, data: bytes) -> Layout:
        """Keeps a layout once the ordinary parser takes its first record too."""
        record = parse(data)
        if len(record.slots) != layout.count:
            raise UnusualError("the parser sees another record")
        if sum(map(len, self._layouts.values())) >= _MOST_LAYOUTS:
            self._layouts.clear()
        self._layouts.setdefault(layout.length, []).append(layout)
        return layout

    def _cut(self, batch: Joined, values: Sequence[bytes], out: Output) -> list[Cut]:
        """The joined records of one layout, without those that the parser must look at."""
        index = np.array(batch.indices, np.intp)
        cut = Cut(batch.layout, batch.matrix(), index, self._places(batch, values))
        schema = payload(cut.matrix, cut.layout.spans[1], "<u4")[:, 0]
        origin, time_us = cut.header("origin"), cut.header("time_us")
        good = (
            (schema == SCHEMA_VERSION) & (origin >= 1) & (origin <= 3) & (cut.place != _BAD_PLACE)
        )
        good &= (time_us >= 0) & (time_us < 1 << 62)
        if good.all():
            return [cut]
        # The ordinary parser names what is wrong with each.
        bad = set(index[~good].tolist())
        out.labels[:] = [one for one in out.labels if one[0] not in bad]
        out.refer(index[~good].tolist(), time_us[~good].tolist())
        if not good.any():
            return []
        return [Cut(cut.layout, cut.matrix[good], index[good], cut.place[good])]

    def _places(self, batch: Joined, values: Sequence[bytes]) -> NDArray[np.int32]:
        """Place numbers, by the bytes from the node's name to the last slot."""
        start, end = batch.layout.identity
        known = self._identities
        places: list[int] = []
        for i in batch.indices:
            key = values[i][start:end]
            place = known.get(key)
            places.append(self._identify(batch.layout, values[i], key) if place is None else place)
        return np.array(places, np.int32)

    def _identify(self, layout: Layout, data: bytes, key: bytes) -> int:
        if len(self._identities) >= _MOST_IDENTITIES:
            self._identities.clear()
        (a, b), (c, d) = layout.spans[7], layout.spans[8]
        slots = tuple(np.frombuffer(data[c:d], "<u8").tolist())
        try:
            name = data[a:b].decode()
        except UnicodeDecodeError:
            return _BAD_PLACE
        if len(set(slots)) != len(slots) or len(slots) > MAX_SLOTS:
            return _BAD_PLACE
        place = self._identities[key] = self._table.place(name, slots)
        return place

    def _parsed(self, records: list[tuple[int, NodeRecord]]) -> Parsed:
        places = [self._table.place(one.node, tuple(one.slots)) for _, one in records]
        return Parsed(
            [record for _, record in records],
            np.array([index for index, _ in records], np.intp),
            np.array(places, np.int32),
        )
