"""How far partitions are, whatever is announced again."""

from __future__ import annotations

import pytest

from pipeline.books.inbox import farther


@pytest.mark.parametrize(
    ("known", "told", "expected"),
    [
        ((0, 0), (5, 100), (5, 100)),
        ((5, 100), (9, 200), (9, 200)),
        # A rebuild, or a worker that took the partition over, reads the same records again.
        ((9, 200), (5, 100), (9, 200)),
        # A spool's records lie behind newer ones, and have times of their own.
        ((9, 200), (12, 150), (12, 200)),
        # The topic was made anew.
        ((9, 200), (2, 900), (2, 900)),
    ],
)
def test_neither_offset_nor_time_goes_back_for_the_same_records(
    known: tuple[int, int], told: tuple[int, int], expected: tuple[int, int]
):
    assert farther(known, told) == expected
