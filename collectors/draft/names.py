"""Names of nodes folded into the ranges that the site's file expands again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)


def fold(names: Iterable[str]) -> list[str]:
    """Patterns which `collectors.contract.site_toml.expand` turns into these names, each once:
    `a03n[01-08]`; the last number of a name counts, and a number that stands alone stays."""
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    plain: set[str] = set()
    for name in names:
        match = _LAST_NUMBER.fullmatch(name)
        if match is None:
            plain.add(name)
        else:
            head, number, tail = match.groups()
            groups[head, tail].add(number)
    patterns = [
        f"{head}{part}{tail}" for (head, tail), numbers in groups.items() for part in _runs(numbers)
    ]
    return sorted([*plain, *patterns])


def _runs(numbers: set[str]) -> list[str]:
    """`[01-08]` for numbers that follow each other in the width of the first, else the number."""
    left = set(numbers)
    runs: list[str] = []
    for first in sorted(numbers, key=lambda text: (int(text), text)):
        if first not in left:
            continue
        last = first
        left.remove(first)
        while (following := str(int(last) + 1).zfill(len(first))) in left:
            last = following
            left.remove(last)
        runs.append(first if last == first else f"[{first}-{last}]")
    return runs
