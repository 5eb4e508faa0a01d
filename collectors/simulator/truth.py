"""What a simulation writes down about itself: the truth files and how to read them.

A truth directory holds two files, each of JSON lines that begin with a header.

`physical.jsonl`: header `PhysicalHeader`; then `{"owner": PhysicalRow}`,
`{"fault": Fault}` and `{"sent": [node, records]}` lines.  What really
happened, sent or not: bills must come within their stated bounds of it.

`observable.jsonl`: header `{"format", "rejected", "repeated"}`; then `{"samples": [node,
count]}` and `{"row": [key, figures]}` lines.  What the records can say: bills
must equal it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from collectors.contract.topics import Subject
from collectors.simulator.observable import ObservableTruth, Row, RowKey

FORMAT = 2
PHYSICAL, OBSERVABLE = "physical.jsonl", "observable.jsonl"


class PhysicalRow(msgspec.Struct, frozen=True):
    """One owner in one hour (since 1970 UTC).

    `gpu_us` is exact from the schedule: GPUs held times the time within the
    simulation.  Activity, FLOP and energy are even within a tick: of one in
    which a job starts or ends, or an hour begins, each side has its time's part.
    """

    hour: int
    owner_kind: str
    tenant: str
    project: str
    gpu_us: int
    active_us: int
    gflop: float
    energy_mj: float
    down_us: int = 0
    """Time in which GPUs could not be read."""
    throttled_us: int = 0
    """Time with clocks held down by heat or by the power brake."""
    gflop_shown: float = 0.0
    """What the measurement makes of `gflop` (it has an error of its own), where there is one,
    read or not."""

    @property
    def idle_us(self) -> int:
        """The rest: held, readable, not active."""
        return max(0, self.gpu_us - self.active_us - self.down_us)


class Fault(msgspec.Struct, frozen=True):
    """What was wrong with the hardware; times in µs since 1970, None where it never came.

    `kind` is one of `faults.FAULTS`, or what a site has from its start: `gpu_down`,
    `node_silent`, `poor_cooling`.  `first_sign_us` is when a perfect observer
    could see it: for cooling faults a core 0.87 K (three times the
    sensor's noise) warmer than its power explains.
    """

    kind: str
    subjects: tuple[Subject, ...]
    start_us: int
    first_sign_us: int | None = None
    first_throttle_us: int | None = None
    end_us: int | None = None
    strength: float = 0.0


class PhysicalHeader(msgspec.Struct, frozen=True):
    """What was simulated: [start_us, end_us) of a site by a seed."""

    format: int
    site: str
    seed: int
    start_us: int
    end_us: int
    interval_us: int


class PhysicalTruth(msgspec.Struct, frozen=True):
    """The physical truth; `sent` counts the records of each node."""

    header: PhysicalHeader
    rows: list[PhysicalRow]
    faults: list[Fault]
    sent: dict[str, int]

    def by_tenant(self) -> dict[tuple[str, str], tuple[int, int, float, float]]:
        """GPU-µs, active µs, GFLOP and mJ per (owner kind, tenant)."""
        out: dict[tuple[str, str], tuple[int, int, float, float]] = {}
        for row in self.rows:
            gpu, active, gflop, energy = out.get((row.owner_kind, row.tenant), (0, 0, 0.0, 0.0))
            out[row.owner_kind, row.tenant] = (
                gpu + row.gpu_us, active + row.active_us, gflop + row.gflop, energy + row.energy_mj,
            )  # fmt: skip
        return out


def write_physical(directory: Path, truth: PhysicalTruth) -> None:
    """Writes `physical.jsonl`, making the directory."""
    lines: list[Any] = [truth.header]
    lines += [{"owner": row} for row in truth.rows]
    lines += [{"fault": fault} for fault in truth.faults]
    lines += [{"sent": pair} for pair in sorted(truth.sent.items())]
    _write(directory / PHYSICAL, lines)


def write_observable(directory: Path, truth: ObservableTruth) -> None:
    """Writes `observable.jsonl`, making the directory."""
    lines: list[Any] = [{"format": FORMAT, "rejected": truth.rejected, "repeated": truth.repeated}]
    lines += [{"samples": pair} for pair in truth.samples.items()]
    lines += [{"row": pair} for pair in sorted(truth.rows.items())]
    _write(directory / OBSERVABLE, lines)


def _write(path: Path, lines: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.Encoder().encode_lines(lines))


def read_truth(directory: Path) -> tuple[PhysicalTruth, ObservableTruth]:
    """Both truths of a directory; raises FileNotFoundError, or ValueError for another format."""
    return read_physical(directory), _read_observable(directory / OBSERVABLE)


class _Line(msgspec.Struct, frozen=True):
    owner: PhysicalRow | None = None
    fault: Fault | None = None
    sent: tuple[str, int] | None = None
    samples: tuple[str, int] | None = None
    row: tuple[RowKey, Row] | None = None


def _lines(path: Path) -> tuple[bytes, Iterator[_Line]]:
    head, _, rest = path.read_bytes().partition(b"\n")
    told = msgspec.json.decode(head)
    if told.get("format") != FORMAT:
        raise ValueError(f"{path}: format {told.get('format')} is not {FORMAT}")
    return head, iter(msgspec.json.Decoder(_Line).decode_lines(rest))


def read_physical(directory: Path) -> PhysicalTruth:
    """The physical truth of a directory; raises FileNotFoundError, or ValueError for another format."""
    head, lines = _lines(directory / PHYSICAL)
    truth = PhysicalTruth(msgspec.json.decode(head, type=PhysicalHeader), [], [], {})
    for line in lines:
        if line.owner is not None:
            truth.rows.append(line.owner)
        elif line.fault is not None:
            truth.faults.append(line.fault)
        elif line.sent is not None:
            truth.sent[line.sent[0]] = line.sent[1]
    return truth


def _read_observable(path: Path) -> ObservableTruth:
    head, lines = _lines(path)
    samples: dict[str, int] = {}
    rows: dict[RowKey, Row] = {}
    for line in lines:
        if line.samples is not None:
            samples[line.samples[0]] = line.samples[1]
        elif line.row is not None:
            rows[line.row[0]] = line.row[1]
    told = msgspec.json.decode(head)
    return ObservableTruth(samples, told["rejected"], rows, told["repeated"])
