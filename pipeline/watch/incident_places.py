"""Places as paths, so that one can hold another: hall > rack > node > GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from collectors.contract.alerts import SCOPES, Alert, Subject

Path = tuple[str, ...]
"""(hall, rack, node, slot) of a place in the building, as far as it goes; (`scope:name`,) of
anything else."""
_DEPTH = {"hall": 1, "rack": 2, "node": 3, "gpu": 4}
_SCOPE = {depth: scope for scope, depth in _DEPTH.items()}


def path_of(subject: Subject) -> Path:
    """The path of a subject."""
    depth = _DEPTH.get(subject.scope)
    if depth is None:
        return (f"{subject.scope}:{subject.name}",)
    return (subject.hall, subject.rack, subject.node, subject.slot)[:depth]


def holds(outer: Path, inner: Path) -> bool:
    """Whether the first is the second, or a place that it lies in."""
    return inner[: len(outer)] == outer


def common(one: Subject, other: Subject) -> Subject | None:
    """The narrowest place that holds both; None where there is none below the site."""
    a, b = path_of(one), path_of(other)
    if one.scope not in _DEPTH or other.scope not in _DEPTH:
        return one if a == b else None
    depth = 0
    while depth < min(len(a), len(b)) and a[depth] == b[depth]:
        depth += 1
    if depth == 0:
        return None
    if depth == len(a):
        return one
    return other if depth == len(b) else _place(one, depth)


def _place(subject: Subject, depth: int) -> Subject:
    hall, rack, node, _ = (*path_of(subject), "", "", "")[:4]
    if depth == 1:
        return Subject("hall", hall, hall)
    if depth == 2:
        return Subject("rack", f"{hall}/{rack}", hall, rack)
    return Subject(_SCOPE[depth], node, hall, rack, node)


def width(subject: Subject) -> int:
    """The rank of a scope, the narrowest first."""
    return SCOPES.index(subject.scope)


def widest(alerts: Iterable[Alert]) -> list[Alert]:
    """Those whose place lies in no other's: what they touch may be added up.

    Of several at one place the one that touches most.
    """
    best: dict[Path, Alert] = {}
    for alert in alerts:
        path = path_of(alert.subject)
        if path not in best or alert.gpus > best[path].gpus:
            best[path] = alert
    return [alert for path, alert in best.items() if not _inside_another(path, best)]


def _inside_another(path: Path, paths: dict[Path, Alert]) -> bool:
    return any(path[:depth] in paths for depth in range(1, len(path)))


def united(names: Iterable[Sequence[str]], most: int = 50) -> tuple[str, ...]:
    """Names in order, each once; at most `most`."""
    return tuple(sorted({name for some in names for name in some}))[:most]
