"""How a GPU that several hold at once is divided among them: integers, whose sum is the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PARTS = 1_000
"""A GPU is divided into so many; rounding is corrected at the largest share."""

MIG_SLICES = 7
"""Compute slices of a GPU that MIG divides, whatever the profiles in use."""


@dataclass(slots=True)
class Use:
    """What one holder used of a GPU while it shared it."""

    busy_us: float = 0.0
    """SM time."""
    unmeasured: bool = False
    """Whether some of it is not known."""

    def add(self, ratio: float | None, elapsed_us: int) -> None:
        """Takes one interval; None is not known, and stays so."""
        if ratio is None:
            self.unmeasured = True
        else:
            self.busy_us += max(0.0, min(1.0, ratio)) * elapsed_us


def of_instance(slices: int, shares: Sequence[int]) -> list[int]:
    """Weights in parts of the GPU, MIG_SLICES × PARTS, of those who share an instance with so many
    slices; their sum is the instance's."""
    whole = slices * PARTS
    given = [max(1, whole * share // sum(shares)) for share in shares]
    given[given.index(max(given))] += whole - sum(given)
    return given


def weights(uses: Sequence[Use]) -> list[int]:
    """A weight for each: by SM time where that of all is known, else equal.

    Nobody gets nothing, since a share that is held idle is still held.
    """
    total_us = sum(use.busy_us for use in uses)
    if len(uses) < 2 or total_us <= 0 or any(use.unmeasured for use in uses):
        return [1] * len(uses)
    shares = [max(1, round(PARTS * use.busy_us / total_us)) for use in uses]
    shares[shares.index(max(shares))] += PARTS - sum(shares)
    return shares
