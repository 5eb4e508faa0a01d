"""What a mapping record of ours means on this node: whose it is, and which slots."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from collectors.attribution.holders import Holder
from collectors.attribution.mapping_files import MappingError, MappingRecord
from collectors.attribution.places import Places


def time_us(time: dt.datetime | None) -> int | None:
    """µs since 1970."""
    return None if time is None else int(time.timestamp() * 1e6)


def holder_of(record: MappingRecord, start_us: int | None) -> Holder:
    """Whose the record is; `start_us` is its start, where that can be believed."""
    return Holder(
        record.scheduler,
        str(record.job),
        life="" if record.start is None else str(time_us(record.start)),
        start_us=start_us,
        account=record.account or "",
        user=record.user or "",
        shares=record.shared is not False,
    )


def slots_of(record: MappingRecord, places: Places) -> list[int]:
    """The slots that it names.  Raises MappingError."""
    if not record.instances:
        found = [slot for gpu in record.gpus for slot in known(places.find(gpu), gpu)]
        return list(dict.fromkeys(found))
    found = list[int]()
    for mig in record.instances:
        if mig.startswith("MIG-"):
            found += known(places.find(mig), mig)
        elif len(record.gpus) == 1:
            found += known(places.part(record.gpus[0], mig), f"{record.gpus[0]}/{mig}")
        else:
            raise MappingError(f"`mig` {mig!r} needs one `gpu`")
    return list(dict.fromkeys(found))


def known(slots: Sequence[int], name: str) -> Sequence[int]:
    """The same.  Raises MappingError where there are none."""
    if not slots:
        raise MappingError(f"this node has no GPU {name!r}")
    return slots
