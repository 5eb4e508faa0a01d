"""Columns of a tick's rows are what looking at each value alone would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.agent.columns import Columns
from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind

_METRICS = CATALOGUE.metrics[::3]
_ODD = {
    Kind.GAUGE: st.sampled_from([math.nan, math.inf, -math.inf, 4e38, -4e38, 7]),
    Kind.COUNTER: st.sampled_from([-1, 2**53, 2**60, 2.0, math.inf]),
}
_PLAIN = {
    Kind.GAUGE: st.floats(-1e6, 1e6, width=32),
    Kind.COUNTER: st.integers(0, 2**53 - 1),
}


@st.composite
def _rows(draw: st.DrawFn) -> list[dict[str, float]]:
    """A node's slots: most are alike, some lack something or say more, some values are odd."""
    common = draw(st.sets(st.sampled_from(_METRICS)))
    rows: list[dict[str, float]] = []
    for _ in range(draw(st.integers(0, 4))):
        lacks = draw(st.sets(st.sampled_from(_METRICS), max_size=1))
        more = draw(st.sets(st.sampled_from(_METRICS), max_size=2))
        chosen = draw(st.permutations(sorted((common - lacks) | more, key=lambda m: m.number)))
        odd = draw(st.integers(0, 15))
        rows.append({
            metric.name: draw((_ODD if number == odd else _PLAIN)[metric.kind])
            for number, metric in enumerate(chosen)
        })  # fmt: skip
    return rows


def _one(kind: Kind, value: float | None) -> float:
    if kind is Kind.COUNTER:
        return COUNTER_ABSENT if value is None or not 0 <= value < 2**53 else int(value)
    return math.nan if value is None or not abs(value) < 3e38 else value


def _expected(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {
        metric.name: [_one(metric.kind, row.get(metric.name)) for row in rows]
        for metric in CATALOGUE
        if any(metric.name in row for row in rows)
    }


@settings(max_examples=60)
@given(st.lists(_rows(), min_size=1, max_size=5))
def test_columns_of_many_ticks(ticks: list[list[dict[str, float]]]) -> None:
    columns = Columns(CATALOGUE)
    for rows in ticks:
        found, expected = columns.of(rows), _expected(rows)
        assert found.keys() == expected.keys()
        for name, column in expected.items():
            # As text, in which NaN is NaN, and a counter is whole.
            shown = [f"{value:g}" for value in found[name]]
            assert shown == [f"{value:g}" for value in column], name
            if CATALOGUE.by_name[name].kind is Kind.COUNTER:
                assert all(isinstance(value, int) for value in found[name])
                assert found[name] == column


def test_what_is_no_metric_is_left_out() -> None:
    rows: list[dict[str, float]] = [{"power_w": 1.0, "what": 2.0}] * 3
    assert Columns(CATALOGUE).of(rows) == {"power_w": [1.0, 1.0, 1.0]}
