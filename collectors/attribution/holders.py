"""Who holds a slot, in the words that all sources of attribution share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

SLURM, KUBERNETES = "slurm", "k8s"


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """One job or pod on a slot, as one source tells of it."""

    scheme: str
    """Who counts the names: `slurm`, `k8s`, or another scheduler that a mapping file names."""
    name: str
    """A job's number (or SLUID where that is not known), or `namespace/pod`."""
    life: str = ""
    """Differs between two lives of one name: a pod's UID, a requeued job's start."""
    start_us: int | None = None
    account: str = ""
    user: str = ""
    namespace: str = ""
    shares: bool = False
    """Whether others may hold the slot at the same time by the scheduler's own doing."""

    @property
    def text(self) -> str:
        """As a label shows it."""
        return f"{self.scheme}:{self.name}"

    @property
    def tenant(self) -> str:
        """Who pays; "" where nothing that is known names one."""
        return self.account or self.namespace or self.user

    def same_as(self, other: Holder) -> bool:
        """Whether both are the same life; one that is not known is any."""
        lives = not self.life or not other.life or self.life == other.life
        return lives and (self.scheme, self.name) == (other.scheme, other.name)


Seats = Mapping[int, Sequence[Holder]]
"""Slot → who holds it."""


class SourceAwayError(RuntimeError):
    """A source cannot say anything now, which is no proof that nobody is there."""
