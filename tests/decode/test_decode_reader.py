"""The columnar reader and the ordinary Protobuf parser must see the same values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, FieldRead, Kind, Metric
from collectors.contract.identity import Slot, pack_slot
from collectors.contract.record import NodeRecord, Origin, SlotLabels
from collectors.contract.wire import BrokenRecordError, encode, parse
from pipeline.decode.batch import Decoded
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable

U64 = st.integers(0, 2**64 - 1)
COUNTER = st.one_of(st.just(COUNTER_ABSENT), st.integers(0, 2**53 - 1))
GAUGE = st.one_of(st.just(math.nan), st.floats(width=32))


@st.composite
def records(draw: st.DrawFn) -> NodeRecord:
    count = draw(st.integers(1, 9))
    slots = [pack_slot(Slot(0, i + 1, 0, 0, draw(st.integers(-1, 3)))) for i in range(count)]
    names = draw(st.sets(st.sampled_from([m.name for m in CATALOGUE])))
    values = {
        name: draw(
            st.lists(
                GAUGE if CATALOGUE.by_name[name].kind is Kind.GAUGE else COUNTER,
                min_size=count,
                max_size=count,
            )
        )
        for name in sorted(names)
    }
    labels = [
        SlotLabels(slot, draw(st.text(max_size=4)), "model", "", draw(st.text(max_size=4)))
        for slot in slots
        if draw(st.booleans())
    ]
    return NodeRecord(
        node=draw(st.sampled_from(["n1", "n2", "n10", "knoten-ä"])),
        origin=draw(st.sampled_from(Origin)),
        run=draw(U64),
        sequence=draw(U64),
        time_us=draw(st.integers(0, 2**60)),
        label_epoch=draw(U64),
        slots=slots,
        energy_epochs=draw(st.lists(U64, min_size=count, max_size=count)),
        values=values,
        labels=labels if draw(st.booleans()) else [],
    )


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def assert_equal(decoded: Decoded, table: SlotTable, datas: Sequence[bytes]) -> None:
    gpu_node, gpu_slot = table.arrays()
    seen: set[int] = set()
    labels = {index: labels.read() for index, labels in decoded.labels}
    for group in decoded.groups:
        for row in range(len(group)):
            index = int(group.index[row])
            seen.add(index)
            want = parse(datas[index])
            gpus = group.gpu[row]
            assert {table.nodes[n] for n in gpu_node[gpus]} == {want.node}
            assert gpu_slot[gpus].tolist() == list(want.slots)
            assert group.energy_epoch[row].tolist() == list(want.energy_epochs)
            header = (group.origin, group.run, group.sequence, group.time_us, group.label_epoch)
            assert [int(x[row]) for x in header] == [
                want.origin, want.run, want.sequence, want.time_us, want.label_epoch,
            ]  # fmt: skip
            assert list(labels.get(index, ())) == list(want.labels)
            columns = [
                *zip(CATALOGUE.gauges, group.gauges[:, row], strict=True),
                *zip(CATALOGUE.counters, group.counters[:, row], strict=True),
            ]
            for metric, got in columns:
                absent = math.nan if metric.kind is Kind.GAUGE else COUNTER_ABSENT
                expected = want.values.get(metric.name, [absent] * len(want.slots))
                assert all(same(a, b) for a, b in zip(got.tolist(), expected, strict=True))
    broken = {b.index: b.reason for b in decoded.broken}
    assert seen.isdisjoint(broken)
    assert seen | set(broken) == set(range(len(datas)))
    for index, reason in broken.items():
        with pytest.raises(BrokenRecordError) as caught:
            parse(datas[index])
        assert caught.value.reason == reason


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), max_size=8), st.data())
def test_same_bytes_same_values(drawn: list[NodeRecord], data: st.DataObject) -> None:
    table = SlotTable()
    reader = Reader(table)
    datas = [encode(record) for record in drawn]
    for index in range(len(datas)):
        if data.draw(st.integers(0, 4)) == 0:
            at = data.draw(st.integers(0, len(datas[index])))
            datas[index] = data.draw(
                st.sampled_from(
                    [datas[index][:at], datas[index] + b"\x00", b"", datas[index][at:], b"\xff" * 9]
                )
            )
    for _ in range(2):  # the second time, the layouts are known
        assert_equal(reader.read(datas), table, datas)


def test_a_new_row_is_read_and_an_old_reader_passes_over_it() -> None:
    metric = Metric("leak_detected", 120, "", "Coolant found.", (0, 1), Kind.GAUGE, FieldRead(999))
    slots = [pack_slot(Slot(0, 1, 0, 0)), pack_slot(Slot(0, 2, 0, 0))]
    record = NodeRecord(
        "n1", Origin.SIMULATED, 1, 2, 3, 4, slots, [0, 0], {"leak_detected": [1, 0]}
    )
    old = Reader(SlotTable())
    with CATALOGUE.extended(metric):
        data = encode(record)
        (group,) = Reader(SlotTable()).read([data, data]).groups
        row = [m.name for m in CATALOGUE.gauges].index("leak_detected")
        assert group.gauges[row].tolist() == [[1, 0], [1, 0]]
    (group,) = old.read([data]).groups
    assert np.isnan(group.gauges).all()
