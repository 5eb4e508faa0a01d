"""Law 6 per node: over distinct (run, sequence), sent = stored + rejected + missing.

What is missing is in flight, waits in a spool, or was dropped; only the agent
can say which, so it is shown as in flight.  Also each node's clock offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.batch import Broken, Group
from pipeline.decode.slots import SlotTable

_WINDOW = 15
_MOST_RUNS = 500_000


class Balance:
    """Counts per node since this writer got its partitions."""

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self._runs: dict[tuple[int, int], list[int]] = {}
        self._rejected: dict[int, set[tuple[int, int]]] = {}
        self._offset_us = np.zeros((0, _WINDOW), np.int64)
        self._filled = np.zeros(0, np.int64)

    def saw(self, group: Group, bus_us: NDArray[np.int64], broken: Sequence[Broken] = ()) -> None:
        """Records that could be read, with their bus times int64[n], and which of them were refused.

        A clock that is far off has its records refused, and then its offset
        is what an operator must see.
        """
        nodes = np.array([self._table.place_node[p] for p in group.place.tolist()], np.intp)
        self._reach(nodes, group)
        self._offsets(nodes, bus_us - group.time_us)
        if broken:
            self._refuse(group, broken)

    def _refuse(self, group: Group, broken: Sequence[Broken]) -> None:
        row = {int(index): at for at, index in enumerate(group.index.tolist())}
        for one in broken:
            at = row[one.index]
            node = self._table.place_node[int(group.place[at])]
            key = (int(group.run[at]), int(group.sequence[at]))
            self._rejected.setdefault(node, set()).add(key)

    def _reach(self, nodes: NDArray[np.intp], group: Group) -> None:
        """Lowest and highest sequence of each node's run."""
        if len(self._runs) > _MOST_RUNS:
            # Nodes do not start so often: these are made up.  Counting begins anew.
            self._runs.clear()
            self._rejected.clear()
        rows = zip(nodes.tolist(), group.run.tolist(), group.sequence.tolist(), strict=True)
        for node, run, sequence in rows:
            span = self._runs.get((node, run))
            if span is None:
                self._runs[node, run] = [sequence, sequence]
            elif sequence > span[1]:
                span[1] = sequence
            elif sequence < span[0]:
                span[0] = sequence

    def _offsets(self, nodes: NDArray[np.intp], offset_us: NDArray[np.int64]) -> None:
        missing = int(nodes.max(initial=-1)) + 1 - len(self._filled)
        if missing > 0:
            self._offset_us = np.concatenate(
                [self._offset_us, np.zeros((missing, _WINDOW), np.int64)]
            )
            self._filled = np.concatenate([self._filled, np.zeros(missing, np.int64)])
        self._offset_us[nodes, self._filled[nodes] % _WINDOW] = offset_us
        self._filled[nodes] += 1

    def sent(self) -> dict[str, int]:
        """Records that each node is known to have sent."""
        sent: dict[str, int] = {}
        for (node, _), (low, high) in self._runs.items():
            name = self._table.nodes[node]
            sent[name] = sent.get(name, 0) + high - low + 1
        return sent

    def rejected(self) -> dict[str, int]:
        """Distinct records of each node that were refused."""
        return {self._table.nodes[node]: len(keys) for node, keys in self._rejected.items()}

    def clock_offsets_us(self) -> dict[str, int]:
        """Bus time minus event time of each node: the median of its last records."""
        return {
            self._table.nodes[node]: int(np.median(self._offset_us[node, : min(int(n), _WINDOW)]))
            for node, n in enumerate(self._filled.tolist())
            if n
        }
