"""Slurm's short forms: lists of hosts, lists of numbers, amounts of resources."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MOST_HOSTS = 65_536
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_TRES_GPU = re.compile(r"gres/gpu(:[^=]+)?=(\d+)")
_GRES = re.compile(r"(?P<name>\w+)(?::(?P<type>[^:()]+))??:(?P<count>\d+)\((?P<inside>[^)]*)\)")
_MIG = re.compile(r"\d+g\.\d+gb", re.IGNORECASE)
_NOBODY = {"", "None assigned", "(null)", "n/a", "N/A", "None"}


def hosts(text: str) -> tuple[str, ...]:
    """`n[1-2,04],m3` → n1, n2, n04, m3.  Raises ValueError for what is no list of hosts."""
    if text.strip() in _NOBODY:
        return ()
    found = [host for part in _split(text.strip()) for host in _expand(part)]
    if len(found) > _MOST_HOSTS:
        raise ValueError(f"more than {_MOST_HOSTS} hosts in {text[:80]!r}")
    return tuple(found)


def _split(text: str) -> Iterator[str]:
    """At commas outside brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            yield text[begin:place]
            begin = place + 1
    if depth:
        raise ValueError(f"a bracket is not closed in {text[:80]!r}")
    yield text[begin:]


def _expand(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        if not part or "]" in part:
            raise ValueError(f"not a host's name: {part[:80]!r}")
        yield part
        return
    inside, closed, tail = rest.partition("]")
    if not closed:
        raise ValueError(f"a bracket is not closed in {part[:80]!r}")
    ends = tuple(_expand(tail)) if tail else ("",)
    for number in _numbers(inside):
        for end in ends:
            yield f"{head}{number}{end}"


def _numbers(text: str) -> Iterator[str]:
    """`1-3,08` → 1, 2, 3, 08: zeros before a number are kept."""
    for one in text.split(","):
        match = _RANGE.fullmatch(one.strip())
        if match is None:
            raise ValueError(f"not numbers: {text[:80]!r}")
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) > _MOST_HOSTS:
            raise ValueError(f"more than {_MOST_HOSTS} hosts in {text[:80]!r}")
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def indices(text: str) -> tuple[int, ...]:
    """`0-1,3` → 0, 1, 3.  Raises ValueError."""
    return tuple(int(one) for one in _numbers(text)) if text.strip() else ()


def gpu_count(tres: str) -> int | None:
    """GPUs in `billing=2,gres/gpu=2,gres/gpu:h800=2`; None where it names none."""
    found = _TRES_GPU.findall(tres)
    whole = [int(count) for kind, count in found if not kind]
    typed = [int(count) for kind, count in found if kind]
    return whole[0] if whole else sum(typed) if typed else None


def gres_numbers(detail: str) -> tuple[int, ...] | None:
    """The GPUs in one node's `gpu:h800:2(IDX:0-1)`, as numbers of `/dev/nvidiaN`.

    None where they cannot be told: without an index, or with MIG, whose
    numbers are those of instances in the order of gres.conf.
    """
    found: list[int] = []
    for match in _GRES.finditer(detail):
        if match["name"] != "gpu":
            continue
        if not match["inside"].startswith("IDX:") or _MIG.search(match["type"] or ""):
            return None
        found += indices(match["inside"].removeprefix("IDX:"))
    return tuple(found)
