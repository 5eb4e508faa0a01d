"""InfluxQL texts, in which whatever is not ours is a bound parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pipeline.series.lines import MINUTE_NS

MOST_BOUND = 200
"""Nodes or slots named in a query; for more all are read and chosen by the caller."""
_LAST_NS = 2**63 - 1_000_000


class Where:
    """Conditions of a query; whatever is not ours is a bound parameter."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.bound: dict[str, str] = {}

    def between(self, from_ns: int, to_ns: int) -> Where:
        """from_ns ≤ time < to_ns, as far as the server knows time."""
        first, end = (max(0, min(_LAST_NS, int(bound))) for bound in (from_ns, to_ns))
        self.conditions += [f"time >= {first}", f"time < {end}"]
        return self

    def since_ever(self) -> Where:
        """All times."""
        return self.between(0, _LAST_NS)

    def minutes(self, from_minute: int, to_minute: int) -> Where:
        """from_minute ≤ minute < to_minute."""
        return self.between(from_minute * MINUTE_NS, to_minute * MINUTE_NS)

    def one_of(self, tag: str, values: Sequence[str] | None) -> Where:
        """The tag has one of the values; None, or more than a query bears, is no condition."""
        if values is None or len(values) > MOST_BOUND:
            return self
        bound = {f"{tag}{index}": value for index, value in enumerate(values)}
        self.bound |= bound
        either = " OR ".join(f"{tag} = ${name}" for name in bound)
        self.conditions.append(f"({either})" if bound else "time < 0 AND time > 0")
        return self

    def has_bit(self, column: str, bit: int) -> Where:
        """The column, one of ours, has a bit set."""
        self.conditions.append(f'"{column}" & {1 << bit} = {1 << bit}')
        return self


def quoted(columns: Iterable[str]) -> list[str]:
    """Names of the catalogue's as identifiers."""
    return [f'"{column}"' for column in columns]


def select(columns: Iterable[str], measurement: str) -> str:
    """SELECT … FROM, without conditions."""
    return " ".join(("SELECT", ", ".join(columns), "FROM", measurement))


def rfc3339(seconds: int, fraction: str = "") -> str:
    """Seconds since 1970 as the deletion takes them."""
    when = datetime.fromtimestamp(seconds, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}{fraction}Z"
