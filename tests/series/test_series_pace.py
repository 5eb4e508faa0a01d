"""How large requests are while a server is too slow for large ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.series.pace import Pace

SECOND_US = 1_000_000


def test_a_timeout_halves_and_quick_answers_double():
    pace = Pace(8.0, least=10, most=400)
    for expected in (200, 100, 50, 25, 12, 10, 10):
        pace.too_slow(pace.lines)
        assert pace.lines == expected
    pace.answered(9, 1)
    pace.answered(10, 3 * SECOND_US)
    assert pace.lines == 10, "neither a small request nor a slow answer says that more would go"
    for expected in (20, 40, 80, 160, 320, 400, 400):
        pace.answered(pace.lines, SECOND_US)
        assert pace.lines == expected


def test_two_timeouts_of_one_size_halve_once():
    pace = Pace(8.0, least=10, most=400)
    pace.too_slow(400)
    pace.too_slow(400)
    assert pace.lines == 200


@given(st.lists(st.binary(min_size=1, max_size=4).map(lambda b: b.replace(b"\n", b"_").replace(b"\r", b"_")), min_size=1, max_size=40),
       st.integers(1, 50), st.booleans())  # fmt: skip
def test_pieces_are_all_lines_in_order(lines: list[bytes], most: int, ended: bool):
    body = b"\n".join(lines) + b"\n" * ended
    pieces = list(Pace(1.0, least=1, most=most).pieces(body))
    assert [line for piece, _ in pieces for line in piece.splitlines()] == lines
    assert [count for _, count in pieces] == [len(piece.splitlines()) for piece, _ in pieces]
    assert max(count for _, count in pieces) <= most
