"""What happens to whom, in which order: drawn by seed, every kind often enough."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KILL, PAUSE, FULL = "kill", "pause", "full disk"
LONGEST_PAUSE_S = 4.0
_UNTIL = 0.95
"""Records are lost on their way, so that fewer are sent than were made."""


@dataclass(frozen=True, slots=True)
class Act:
    """Once `sent` of all that is simulated (0 to 1) is on the bus, something is done to a process,
    or to what it writes to, for `for_s`."""

    what: str
    target: str
    sent: float
    for_s: float


def plan(
    targets: Mapping[str, Sequence[str]],
    disks: Sequence[str],
    *,
    kills: int,
    pauses: int,
    fulls: int,
    seed: int,
) -> list[Act]:
    """`targets` are names by kind: each kind is killed about equally often; `disks` are filled
    in turn.  All of it is spread over the whole simulation, each at a random moment of its share."""
    rng = random.Random(seed)
    kinds = sorted(targets)
    todo = [(KILL, rng.choice(targets[kinds[at % len(kinds)]])) for at in range(kills)]
    todo += [(PAUSE, rng.choice(targets[kinds[at % len(kinds)]])) for at in range(pauses)]
    todo += [(FULL, disks[at % len(disks)]) for at in range(fulls)]
    rng.shuffle(todo)
    lasts = {KILL: (0.0, 1.5), PAUSE: (0.5, LONGEST_PAUSE_S), FULL: (1.0, 4.0)}
    return [
        Act(what, target, _UNTIL * (at + rng.random()) / len(todo), rng.uniform(*lasts[what]))
        for at, (what, target) in enumerate(todo)
    ]
