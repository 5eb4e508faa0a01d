"""What happens to whom, in which order: drawn by seed, every kind often enough."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KILL, PAUSE, FULL = "kill", "pause", "full disk"
LONGEST_PAUSE_S = 4.0


@dataclass(frozen=True, slots=True)
class Act:
    """After `wait_s` something is done to a process, or to what it writes to, for `for_s`."""

    what: str
    target: str
    wait_s: float
    for_s: float


def plan(
    targets: Mapping[str, Sequence[str]],
    disks: Sequence[str],
    *,
    kills: int,
    pauses: int,
    fulls: int,
    seed: int,
    gap_s: float,
) -> list[Act]:
    """`targets` are names by kind: each kind is killed about equally often; `disks` are filled
    in turn."""
    rng = random.Random(seed)
    kinds = sorted(targets)
    todo = [(KILL, rng.choice(targets[kinds[at % len(kinds)]])) for at in range(kills)]
    todo += [(PAUSE, rng.choice(targets[kinds[at % len(kinds)]])) for at in range(pauses)]
    todo += [(FULL, disks[at % len(disks)]) for at in range(fulls)]
    rng.shuffle(todo)
    lasts = {KILL: (0.0, 1.5), PAUSE: (0.5, LONGEST_PAUSE_S), FULL: (1.0, 4.0)}
    return [
        Act(what, target, rng.uniform(0.2, 2 * gap_s), rng.uniform(*lasts[what]))
        for what, target in todo
    ]
