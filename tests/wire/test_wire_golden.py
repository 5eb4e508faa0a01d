"""Records of the past decode for ever, and any record survives the way there and back."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from golden_records import FOLDER, GOLDEN, plain
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.catalogue import (
    CATALOGUE,
    COUNTER_ABSENT,
    CallRead,
    Kind,
    Metric,
)
from collectors.contract.record import NodeRecord, Origin, SlotLabels
from collectors.contract.wire import MAX_SLOTS, BrokenRecordError, encode, parse, tag, varint

FILES = sorted(FOLDER.glob("*.bin"))


def test_every_golden_record_is_kept() -> None:
    assert {path.stem for path in FILES} == set(GOLDEN)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_record_says_what_it_said(path: Path) -> None:
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert plain(parse(path.read_bytes())) == said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_reader_skips_what_it_does_not_know(path: Path) -> None:
    """A newer agent's extra metric and header field are passed over."""
    data = path.read_bytes()
    record = parse(data)
    count = len(record.slots)
    extra = tag(900, 2) + varint(4 * count) + struct.pack(f"<{count}f", *range(count))
    assert plain(parse(data + extra + tag(901, 1) + bytes(8))) == plain(record)


gauges = st.one_of(st.floats(width=32, allow_nan=True, allow_infinity=True))
counters = st.one_of(st.integers(0, 2**53 - 1), st.just(COUNTER_ABSENT))
words = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def records(draw: st.DrawFn) -> NodeRecord:
    """Any record: any slots, any metric missing, any labels."""
    slots = draw(st.lists(words, min_size=1, max_size=12, unique=True))
    count = len(slots)
    values: dict[str, Sequence[float]] = {}
    for metric in CATALOGUE:
        if draw(st.booleans()):
            kind = gauges if metric.kind is Kind.GAUGE else counters
            values[metric.name] = draw(st.lists(kind, min_size=count, max_size=count))
    labels = draw(
        st.lists(
            st.builds(SlotLabels, st.sampled_from(slots), texts, texts, texts, texts), max_size=3
        )
    )
    return NodeRecord(
        draw(texts.filter(bool)), draw(st.sampled_from(Origin)), draw(words), draw(words), draw(words),
        draw(words), slots, draw(st.lists(words, min_size=count, max_size=count)), values, labels,
    )  # fmt: skip


def comparable(values: Mapping[str, Sequence[float]]) -> dict[str, list[object]]:
    """NaN equals NaN here."""
    return {
        name: ["absent" if isinstance(v, float) and math.isnan(v) else v for v in column]
        for name, column in values.items()
    }


@given(records())
def test_there_and_back(record: NodeRecord) -> None:
    back = parse(encode(record))
    assert comparable(back.values) == comparable(record.values)
    for name in ("node", "origin", "run", "sequence", "time_us", "label_epoch"):
        assert getattr(back, name) == getattr(record, name)
    assert list(back.slots) == list(record.slots)
    assert list(back.energy_epochs) == list(record.energy_epochs)
    assert list(back.labels) == list(record.labels)


def read_or_refuse(data: bytes) -> str:
    """The reason of the refusal; "" for a record.  Any other error is a test's failure."""
    try:
        record = parse(data)
    except BrokenRecordError as error:
        return error.reason
    return "" if record.slots else "a record without slots"


REASONS = {"", "undecodable", "schema", "origin", "node", "slots", "shape"}


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert read_or_refuse(data) in REASONS


@given(st.sampled_from(FILES), st.data())
def test_damaged_records_are_read_or_refused(path: Path, data: st.DataObject) -> None:
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole)))
    assert read_or_refuse(bytes(whole)) in REASONS
    assert read_or_refuse(bytes(whole[:cut])) in REASONS


def test_a_new_row_is_on_the_wire_at_once() -> None:
    row = Metric("nvlink_flits", 200, "B", "Sent.", (0, 2**53 - 1), Kind.COUNTER, CallRead("x"))
    slots = [1, 2]
    before = NodeRecord("n", Origin.MEASURED, 1, 0, 0, 0, slots, slots, {"power_w": [1, 2]})
    encode(before)
    with CATALOGUE.extended(row):
        record = NodeRecord("n", Origin.MEASURED, 1, 0, 0, 0, slots, slots, {row.name: [7, 8]})
        assert parse(encode(record)).values == {row.name: [7, 8]}
        newer = encode(record)
    assert parse(newer).values == {}
    assert parse(encode(before)).values == {"power_w": [1, 2]}


def test_too_many_slots_are_refused() -> None:
    slots = list(range(MAX_SLOTS + 1))
    with pytest.raises(ValueError, match="at most"):
        encode(NodeRecord("n", Origin.MEASURED, 1, 0, 0, 0, slots, slots, {}))
