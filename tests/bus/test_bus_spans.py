"""Which commits belong to an assignment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.contract.bus import FencedError, Partition
from collectors.kit.partitions import partition_of
from collectors.kit.spans import Spans

HERE, THERE = Partition("t", 0), Partition("t", 1)


@given(start=st.integers(0, 100), moves=st.lists(st.integers(0, 200)), offset=st.integers(0, 250))
def test_what_was_passed_since_assignment_may_be_committed(
    start: int, moves: list[int], offset: int
) -> None:
    spans = Spans()
    spans.assign({HERE: start})
    for move in moves:
        spans.seek(HERE, move)
    assert spans.position(HERE) == (moves[-1] if moves else start)
    if min([start, *moves]) <= offset <= max([start, *moves]):
        spans.check({HERE: offset})
    else:
        with pytest.raises(FencedError):
            spans.check({HERE: offset})


def test_an_assignment_replaces_the_one_before() -> None:
    spans = Spans()
    spans.assign({HERE: 0})
    spans.seek(HERE, 50)
    spans.assign({THERE: 7})
    assert spans.partitions == {THERE}
    with pytest.raises(FencedError):
        spans.check({HERE: 50})
    with pytest.raises(KeyError):
        spans.seek(HERE, 1)
    spans.add(THERE, 99)
    spans.add(HERE, 3)
    assert (spans.position(THERE), spans.position(HERE)) == (7, 3)


def test_a_keys_partition_never_changes() -> None:
    # CRC-32 modulo the partitions; logs that exist hang on these very numbers.
    found = [partition_of(key, 12) for key in (b"", b"node0001", b"node0002", bytes(range(256)))]
    assert found == [0, 5, 7, 7]
