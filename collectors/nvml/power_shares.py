"""How a GPU's power is divided among its MIG instances: an allocation, no measurement; no I/O.

The rule: of an amount (mJ, mW) the part that the GPU draws at idle goes by
slices, and the rest by work (SM activity × SMs).  Idle power is the lowest
that was seen while no instance worked; before any was seen, a tenth of the
rated power.  Where no instance works, or one does not say, all goes by slices.
Shares are whole units by largest remainder, so their sum is the amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_RATED_SHARE = 0.1
"""H100 and H200 idle at 70–78 W of 700 W, A100 at 60–67 W of 400 W."""
_IDLE_ACTIVITY = 0.01
_WORK_UNITS = 1_000_000


class Part(NamedTuple):
    """What the rule asks of an instance."""

    slices: float
    work: float | None
    """SM activity × SMs; None where the instance does not say."""
    sms: float


class PowerShares:
    """Keeps what was learned of one GPU's idle power."""

    def __init__(self, rated_w: float | None) -> None:
        self._idle_w = 0.0 if rated_w is None else rated_w * _RATED_SHARE
        self._seen = False

    def learn(self, power_w: float, parts: Sequence[Part]) -> None:
        """A reading of the GPU's power, with what its instances did until then."""
        if not all(x.work is not None and x.work < _IDLE_ACTIVITY * max(1.0, x.sms) for x in parts):
            return
        if not self._seen or power_w < self._idle_w:
            self._idle_w, self._seen = power_w, True

    def shares(self, amount: int, power_w: float, parts: Sequence[Part]) -> list[int]:
        """An amount that was drawn at a mean power, by instance.  The sum is `amount` exactly;
        `parts` must not be empty."""
        by_slices = [round(part.slices * _WORK_UNITS) for part in parts]
        by_work = [round((part.work or 0.0) * _WORK_UNITS) for part in parts]
        if any(part.work is None for part in parts) or not any(by_work):
            return split(amount, by_slices)
        idle = amount if power_w <= self._idle_w else int(amount * (self._idle_w / power_w))
        fixed, rest = split(idle, by_slices), split(amount - idle, by_work)
        return [one + two for one, two in zip(fixed, rest, strict=True)]


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `amount` ≥ 0 by weights ≥ 0 (equal ones where all are 0), whose sum is
    `amount`: floors, and one more each for the largest remainders, the first of equal ones first.
    """
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    shares = [amount * weight // total for weight in weights]
    remainders = [amount * weight % total for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in order[: amount - sum(shares)]:
        shares[index] += 1
    return shares
