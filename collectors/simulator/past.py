"""The hour ledger of a time that nobody simulated second by second: jobs as they come and go,
and what each does to its GPUs in the mean.

Between two changes of a GPU's job its power, FLOP and activity are constant
means over the phases of the job, so an hour is a few array operations.  It is
physical truth, in the shape of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collectors.contract.inventory import Inventory
from collectors.simulator.electric import Board, board_of, electric
from collectors.simulator.hardware import F64, I64, Bool, Hardware, make_hardware
from collectors.simulator.jobs import NOBODY, UPKEEP, Change, Owner, Shares
from collectors.simulator.load import Load, gpu_indices
from collectors.simulator.meters import ACTIVE_UTILIZATION, ESTIMATE_K
from collectors.simulator.sharing import deal_out
from collectors.simulator.sites import GPUS_PER_NODE, entries_from, make_site
from collectors.simulator.workload import Workload

HOUR_US = 3_600_000_000


class PastHour(NamedTuple):
    """Columns of N: one row per (node, slot, owner) of one hour since 1970 UTC.

    `node` indexes `nodes`, `owner` indexes `owners`; `figures` are int64 by the ledger's names.
    """

    hour: int
    nodes: Sequence[str]
    owners: Sequence[Owner]
    node: NDArray[np.int32]
    slot: NDArray[np.uint64]
    owner: NDArray[np.int32]
    figures: Mapping[str, I64]


class _Rates:
    """What each GPU does per µs in the mean, renewed where a job begins or ends."""

    def __init__(self, hardware: Hardware, load: Load) -> None:
        g = len(hardware.gpm)
        self._hw, self._load, self._board = hardware, load, board_of(hardware)
        self.power_w, self.gflop, self.active, self.capped = (np.zeros(g) for _ in range(4))
        self.estimated = np.zeros(g)
        self.renew(np.arange(g))
        self._asleep_w = self.power_w.copy()

    def rest(self, gpus: NDArray[np.int64]) -> None:
        """Nothing is loaded on some GPUs any more."""
        for column in (self.gflop, self.active, self.capped, self.estimated):
            column[gpus] = 0.0
        self.power_w[gpus] = self._asleep_w[gpus]

    def renew(self, gpus: NDArray[np.int64]) -> None:
        """Takes over what the load now says of some GPUs."""
        activity, share = self._load.phases(gpus)
        both = np.concatenate((gpus, gpus))
        board = Board(*(column[both] for column in self._board))
        done = electric(board, activity, np.ones(len(both)))
        active = activity.utilization >= ACTIVE_UTILIZATION
        clocks = self._hw.flop_per_mhz_us[both] * 1e-9 * done.clock_mhz
        self.power_w[gpus] = _mean(done.power_w, share)
        self.gflop[gpus] = _mean(clocks * activity.tensor, share)
        self.estimated[gpus] = _mean(clocks * activity.utilization, share) * ESTIMATE_K
        self.active[gpus] = _mean(active, share)
        self.capped[gpus] = _mean(done.capped, share)


def _mean(both: F64 | Bool, share: F64) -> F64:
    """The mean of columns of 2K over the phases: the first K for `share` of the time."""
    return both[: len(share)] * share + both[len(share) :] * (1.0 - share)


class _Pieces:
    """Segments of one hour, collected as arrays."""

    def __init__(self) -> None:
        self.gpu: list[I64] = []
        self.owner: list[I64] = []
        self.length_us: list[I64] = []
        self.figures: list[list[F64]] = []


class Past:
    """A site's hours from one to another, in order; the same arguments give the same rows.

    Hours count from 1970 UTC, the last is not included.
    """

    def __init__(self, inventory: Inventory, seed: int, hours: range) -> None:
        self._hours = hours
        start_us = hours.start * HOUR_US
        self._workload = Workload(inventory, seed, start_us)
        self._entries = entries_from(inventory, start_us)
        self._hw = make_hardware(self._entries, seed)
        self._load = Load(len(self._entries) * GPUS_PER_NODE, seed)
        self._rates = _Rates(self._hw, self._load)
        g = len(self._hw.gpm)
        self._since_us = np.full(g, start_us)
        self._from_us = np.repeat([e.from_us for e in self._entries], GPUS_PER_NODE)
        self._to_us = np.repeat([e.to_us or 1 << 62 for e in self._entries], GPUS_PER_NODE)
        self._owner = np.zeros(g, np.int64)
        self._shares: list[Shares] = [((NOBODY, 1),), ((UPKEEP, 1),)]
        self._slots = np.array([slot for e in self._entries for slot in e.slots], np.uint64)
        self._names = [entry.name for entry in self._entries]

    def __iter__(self) -> Iterator[PastHour]:
        for hour in self._hours:
            end_us = (hour + 1) * HOUR_US
            pieces = _Pieces()
            for change in self._workload.changes(end_us):
                self._apply(change, pieces)
            self._cut(np.arange(len(self._owner)), end_us, pieces)
            yield self._rows(hour, pieces)
            self._forget()

    def _apply(self, change: Change, pieces: _Pieces) -> None:
        gpus = gpu_indices(change.job)
        self._cut(gpus, change.time_us, pieces)
        if change.started:
            self._load.start(change.job)
            self._owner[gpus] = self._code(change)
            self._rates.renew(gpus)
        else:
            self._owner[gpus] = 0
            self._rates.rest(gpus)

    def _code(self, change: Change) -> int:
        if change.job.klass.kind == "maintenance":
            return 1
        self._shares.append(change.job.shares)
        return len(self._shares) - 1

    def _cut(self, gpus: NDArray[np.int64], time_us: int, pieces: _Pieces) -> None:
        """Ends the segments of some GPUs at a time."""
        from_us = np.maximum(self._since_us[gpus], self._from_us[gpus])
        length_us = np.minimum(time_us, self._to_us[gpus]) - from_us
        self._since_us[gpus] = time_us
        kept = length_us > 0
        gpus, length_us = gpus[kept], length_us[kept]
        rates = self._rates
        pieces.gpu.append(gpus)
        pieces.owner.append(self._owner[gpus])
        pieces.length_us.append(length_us)
        pieces.figures.append(
            [
                rates.active[gpus] * length_us,
                rates.power_w[gpus] * length_us / 1000,
                rates.gflop[gpus] * length_us,
                rates.estimated[gpus] * length_us,
                rates.capped[gpus] * length_us,
            ]
        )

    def _rows(self, hour: int, pieces: _Pieces) -> PastHour:
        gpu, owner = np.concatenate(pieces.gpu), np.concatenate(pieces.owner)
        columns = [np.concatenate(each) for each in zip(*pieces.figures, strict=True)]
        length_us = np.concatenate(pieces.length_us)
        order = np.lexsort((owner, gpu))
        gpu, owner = gpu[order], owner[order]
        heads = np.ones(len(order), np.bool_)
        heads[1:] = (gpu[1:] != gpu[:-1]) | (owner[1:] != owner[:-1])
        starts = np.flatnonzero(heads)
        held_us = np.add.reduceat(length_us[order], starts)
        sums = [np.add.reduceat(column[order], starts) for column in columns]
        gpu, owner = gpu[starts], owner[starts]
        rows = deal_out(gpu, owner, self._shares, self._figures(gpu, held_us, sums))
        node = (rows.gpu // GPUS_PER_NODE).astype(np.int32)
        return PastHour(
            hour, self._names, rows.owners, node, self._slots[rows.gpu],
            rows.owner.astype(np.int32), rows.figures,
        )  # fmt: skip

    def _figures(self, gpu: I64, held_us: I64, sums: list[F64]) -> dict[str, I64]:
        hw = self._hw
        active, energy, gflop, estimated, capped = sums
        down, dark = hw.down[gpu], np.repeat(hw.dark, GPUS_PER_NODE)[gpu]
        seen_us = np.where(down | dark, 0, held_us)
        active_us = np.minimum(np.floor(active).astype(np.int64), seen_us)
        told = seen_us > 0
        counted = told & hw.counted[gpu]
        measured = np.where(counted, gflop * hw.gain[gpu], 0.0)
        nothing = np.zeros(len(gpu), np.int64)
        return {
            "active_us": active_us,
            "idle_us": seen_us - active_us,
            "down_us": np.where(down & ~dark, held_us, 0),
            "unobserved_us": np.where(dark, held_us, 0),
            "energy_mj": np.where(told, energy, 0.0).astype(np.int64),
            "gflop": measured.astype(np.int64),
            "gflop_lo": (measured * (1 - hw.bound[gpu])).astype(np.int64),
            "gflop_hi": np.ceil(measured * (1 + hw.bound[gpu])).astype(np.int64),
            "gflop_estimated": np.where(told & ~counted, estimated, 0.0).astype(np.int64),
            "throttle_power_cap_us": np.where(told, capped, 0.0).astype(np.int64),
            "throttle_sw_thermal_us": nothing,
            "throttle_hw_thermal_us": nothing,
            "throttle_power_brake_us": nothing,
            "throttle_sync_boost_us": nothing,
        }

    def _forget(self) -> None:
        """Keeps the list of shares as long as what is still held."""
        held, place = np.unique(np.concatenate(([0, 1], self._owner)), return_inverse=True)
        self._shares = [self._shares[code] for code in held.tolist()]
        self._owner = place[2:].astype(np.int64)


def make_past(site: str, seed: int, hours: range) -> Past:
    """The entry point `petawatch.past`.  Raises ValueError for an unknown site."""
    return Past(make_site(site), seed, hours)
