"""What a read gathers on its way from records to columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.batch import Broken, Group, Labels
from pipeline.decode.layout import Layout


class Output:
    """What a read gathers."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.labels: list[tuple[int, Labels]] = []
        self.broken: list[Broken] = []
        self.slow: list[int] = []

    def refer(self, indices: list[int], times_us: list[int]) -> None:
        """Leaves records to the parser, except those whose time alone is impossible."""
        for index, time_us in zip(indices, times_us, strict=True):
            if 0 <= time_us < 1 << 62:
                self.slow.append(index)
            else:
                self.broken.append(Broken(index, "time", f"{time_us} µs"))


class Joined:
    """Records of one layout, joined late."""

    def __init__(
        self,
        layout: Layout,
        indices: list[int] | None = None,
        matrix: NDArray[np.uint8] | None = None,
    ) -> None:
        self.layout = layout
        self.indices = [] if indices is None else list(indices)
        self._matrix = matrix
        self._late: list[bytes] = []

    def add(self, index: int, data: bytes) -> None:
        """One more record, of exactly the layout's length."""
        self.indices.append(index)
        self._late.append(data)

    def matrix(self) -> NDArray[np.uint8]:
        """All records, uint8[n, length]."""
        length = self.layout.length
        late = np.frombuffer(b"".join(self._late), np.uint8).reshape(-1, length)
        if self._matrix is None:
            return late
        return np.concatenate([self._matrix, late]) if self._late else self._matrix
