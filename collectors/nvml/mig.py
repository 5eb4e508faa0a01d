"""MIG instances of one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collectors.contract.facts import GpuFacts
from collectors.contract.flop import FlopWindow
from collectors.contract.models import GpuModel
from collectors.contract.source import Sample
from collectors.kit.clock import Clock
from collectors.nvml.api import Identity, Nvml


class MigInstances:
    """Whether the GPU is divided, and into what."""

    def __init__(
        self,
        nvml: Nvml,
        handle: Any,
        parent: Identity,
        model: GpuModel | None,
        clock: Clock,
        longest_us: int,
    ) -> None:
        self._nvml, self._handle = nvml, handle
        self.active = False
        self.parent_flop: FlopWindow | None = None

    def refresh(self) -> None:
        """Asks for the MIG mode."""
        self.active = bool(self._nvml.ask("nvmlDeviceGetMigMode", self._handle)[0])

    def samples(self, parent: Sample) -> list[Sample]:
        """None yet."""
        self.parent_flop = parent.flop
        return []

    def facts(self) -> Sequence[GpuFacts]:
        """None yet."""
        return []

    def close(self) -> None:
        """Nothing is held."""
