"""Node records as one byte matrix: all nodes of equal layout are written together.

A packed field is tag, length and contiguous little-endian values, so records
that carry the same metrics differ only in their values, and a column of the
fleet is one strided copy.  `wire.encode` makes the skeleton; the bytes are its
bytes (a test compares them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.contract.catalogue import CATALOGUE, Kind
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.wire import encode, tag, varint
from collectors.simulator.hardware import I64
from collectors.simulator.physics import Column
from collectors.simulator.sites import GPUS_PER_NODE

_HEADER = {"run": 11, "sequence": 20, "time_us": 29, "label_epoch": 38}
_HEADER_BYTES = 46


def _layout(name_bytes: int, metrics: Sequence[str]) -> dict[str, tuple[Any, int]]:
    """Where in a record each field's payload lies, as NumPy formats with offsets."""
    fields: dict[str, tuple[Any, int]] = {name: ("<u8", at) for name, at in _HEADER.items()}
    at = _HEADER_BYTES
    longs, floats = ("<u8", GPUS_PER_NODE), ("<f4", GPUS_PER_NODE)
    columns: list[tuple[str, int, Any, int]] = [
        ("node", 7, f"S{name_bytes}", name_bytes),
        ("slots", 8, longs, GPUS_PER_NODE * 8),
        ("energy_epochs", 9, longs, GPUS_PER_NODE * 8),
    ]
    for metric in CATALOGUE:
        if metric.name in metrics:
            gauge = metric.kind is Kind.GAUGE
            columns.append(
                (
                    metric.name,
                    metric.number,
                    floats if gauge else longs,
                    GPUS_PER_NODE * (4 if gauge else 8),
                )
            )
    for name, number, form, size in columns:
        at += len(tag(number, 2)) + len(varint(size))
        fields[name] = (form, at)
        at += size
    return fields


class FrameGroup:
    """The nodes (indices of the site) whose records have one layout.

    `metrics` are the names that they carry; all node names are equally long.
    """

    def __init__(
        self,
        nodes: NDArray[np.intp],
        names: Sequence[str],
        slots: Sequence[Sequence[int]],
        energy_epochs: NDArray[np.uint64],
        runs: Sequence[int],
        metrics: Sequence[str],
    ) -> None:
        self.nodes = nodes
        self.metrics = tuple(metrics)
        zeros: dict[str, list[float]] = {name: [0] * GPUS_PER_NODE for name in metrics}
        skeleton = encode(
            NodeRecord(names[0], Origin.SIMULATED, 0, 0, 0, 0, slots[0], [0] * GPUS_PER_NODE, zeros)
        )
        fields = _layout(len(names[0].encode()), self.metrics)
        form = np.dtype(
            {
                "names": list(fields),
                "formats": [kind for kind, _ in fields.values()],
                "offsets": [at for _, at in fields.values()],
                "itemsize": len(skeleton),
            }
        )
        self._size = len(skeleton)
        self._matrix = np.tile(np.frombuffer(skeleton, np.uint8), (len(nodes), 1))
        rows: Any = self._matrix.view(form)[:, 0]
        rows["node"] = [name.encode() for name in names]
        rows["slots"] = slots
        rows["energy_epochs"] = energy_epochs
        rows["run"] = runs
        self._header = {name: rows[name] for name in ("run", "sequence", "time_us", "label_epoch")}
        self._energy_epochs = rows["energy_epochs"]
        self._payload = {name: rows[name] for name in self.metrics}
        consecutive = bool((np.diff(nodes) == 1).all())
        # Consecutive nodes are a slice, which copies twice as fast as an index.
        self._pick: Any = slice(int(nodes[0]), int(nodes[-1]) + 1) if consecutive else nodes

    def write(self, columns: Mapping[str, Column], skip: frozenset[str]) -> None:
        """Copies the columns of G that the layout carries, but those in `skip`."""
        for name, target in self._payload.items():
            if name not in skip:
                target[:] = columns[name].reshape(-1, GPUS_PER_NODE)[self._pick]

    def set_epochs(self, energy_epochs: NDArray[np.uint64]) -> None:
        """Takes the energy epochs of all site nodes over, [node, GPU]."""
        self._energy_epochs[:] = energy_epochs[self._pick]

    def records(
        self, run: NDArray[np.uint64], sequence: I64, time_us: I64, label_epoch: I64
    ) -> list[bytes]:
        """Every node's record without labels, in the order of `nodes`; all given per site node."""
        for name, column in (
            ("run", run), ("sequence", sequence), ("time_us", time_us), ("label_epoch", label_epoch),
        ):  # fmt: skip
            self._header[name][:] = column[self._pick]
        data, size = self._matrix.tobytes(), self._size
        return [data[at : at + size] for at in range(0, len(data), size)]
