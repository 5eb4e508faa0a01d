"""Between a core and what is saved of it, over restarts and changes of the inventory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from collectors.contract.bus import Partition
from pipeline.watch.alerts import state
from pipeline.watch.alerts.buffer import SavedOffset
from pipeline.watch.alerts.core import Core
from pipeline.watch.alerts.state import Saved, SavedOpen

_ACTIVE, _SEEN = "active_s", "seen_s"


def saved_of(
    core: Core,
    done_s: int,
    positions: Mapping[Partition, int],
    warm_from_us: int,
    offsets: dict[str, SavedOffset],
    newest_us: int,
) -> Saved:
    """What a core must not forget.  Seconds are saved relative to `done_s`, as float32 holds
    whole numbers to 2^24."""
    return Saved(
        version=state.VERSION,
        layout_id=core.layout_id,
        places=state.packed_places(core.layout.places),
        done_s=done_s,
        warm_from_us=warm_from_us,
        positions=texts_of(positions),
        newest_us=newest_us,
        began_s=core.began_s,
        offsets=offsets,
        open=_opened(core),
        columns=_columns(core, done_s),
        totals=core.values.totals,
        allocations=core.holders.alive(done_s * 1_000_000),
        incidents=core.incidents.save() if core.incidents is not None else b"",
        physics=core.physics.save() if core.physics is not None else b"",
        origin=int(core.fleet.origin.max(initial=0)),
    )


def _opened(core: Core) -> dict[str, SavedOpen]:
    """What is open, by keys of subjects that mean the same in another layout."""
    owners = core.holders.owners.tenants
    out: dict[str, SavedOpen] = {}
    for rule in core.rules:
        opened = core.engine.open[rule.name]
        keys = [core.subjects.key(rule, index, owners) for index in opened.index.tolist()]
        out[rule.name] = state.saved_open(opened, keys)
    return out


def _columns(core: Core, done_s: int) -> dict[str, bytes]:
    out = {name: state.packed(column) for name, column in core.values.memory.items()}
    out[_ACTIVE] = state.packed((core.active_s - done_s).astype(np.float32))
    seen = np.where(core.fleet.seen_s > 0, core.fleet.seen_s - done_s, np.nan)
    out[_SEEN] = state.packed(seen.astype(np.float32))
    return out


def texts_of(positions: Mapping[Partition, int]) -> dict[str, int]:
    """Positions as they are saved."""
    return {f"{p.topic}/{p.number}": offset for p, offset in positions.items()}


def partitions_of(positions: Mapping[str, int]) -> dict[Partition, int]:
    """Positions that were saved."""
    out: dict[Partition, int] = {}
    for text, offset in positions.items():
        topic, _, number = text.rpartition("/")
        out[Partition(topic, int(number))] = offset
    return out


def remember(core: Core, saved: Saved) -> None:
    """Puts a new core where the saved one was; what today's layout or rules lack is left out.

    The seconds of the log since `warm_from_us` are still to be taken in.
    """
    core.buffer.offsets.restore(saved.offsets)
    for allocation in saved.allocations:
        core.holders.apply(allocation, saved.done_s * 1_000_000)
    core.hold(saved.done_s * 1_000_000)
    core.began_s = saved.began_s
    moved = _moved(core, saved)
    for name, column in core.values.memory.items():
        if name in saved.columns:
            column[:] = state.unpacked(saved.columns[name], moved)
    core.values.totals.update({k: v for k, v in saved.totals.items() if k in core.values.totals})
    core.active_s[:] = state.unpacked(saved.columns[_ACTIVE], moved).astype(np.float64)
    core.active_s += saved.done_s
    seen = state.unpacked(saved.columns[_SEEN], moved)
    known = ~np.isnan(seen)
    core.fleet.seen_s[known] = seen[known].astype(np.int64) + saved.done_s
    owners = core.holders.owners.tenants
    core.engine.restore(
        {
            rule.name: state.restored_open(
                saved.open[rule.name],
                [core.subjects.index(rule, key, owners) for key in saved.open[rule.name].keys],
            )
            for rule in core.rules
            if rule.name in saved.open
        }
    )


def _moved(core: Core, saved: Saved) -> NDArray[np.intp]:
    """For each position of today its position then, −1 where it is new."""
    if core.layout_id == saved.layout_id:
        return np.arange(len(core.layout.places))
    before = {place: at for at, place in enumerate(state.unpacked_places(saved.places))}
    return np.array([before.get(place, -1) for place in core.layout.places], np.intp)
