"""What the simulator costs: a large site in real time, and a month of ledger without seconds.

    python -m benchmarks.simulate [--gpus N] [--past SITE] [--hours H] [--json]

CPU-seconds of this process.  `cores` is what records of all GPUs at 1 Hz take;
the past is written into new SQLite books, as `petawatch up` does it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collectors.simulator.fleet import Fleet
from collectors.simulator.past import make_past
from collectors.simulator.sites import make_site

_START_US = 1_800_000_000_000_000
_TICKS, _WARM = 30, 35
_FIRST_HOUR = 500_000


def fleet(gpus: int) -> dict[str, float]:
    """CPU of a second of a synthetic site."""
    site = Fleet(make_site(f"synthetic:{gpus}"), 1, _START_US)
    for _ in range(_WARM):
        site.step()
    began_s, size = time.process_time(), 0
    for _ in range(_TICKS):
        size += sum(map(len, site.step().records))
    cpu_s = (time.process_time() - began_s) / _TICKS
    return {
        "gpus": gpus,
        "cores": round(cpu_s, 4),
        "bytes_per_gpu_sample": round(size / _TICKS / gpus),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def past(name: str, hours: int) -> dict[str, Any]:
    """CPU of a site's hours, made alone and written into books."""
    span = range(_FIRST_HOUR, _FIRST_HOUR + hours)
    began_s = time.process_time()
    rows = sum(len(one.node) for one in make_past(name, 1, span))
    made_s = time.process_time() - began_s
    books: Any = importlib.import_module("pipeline.books.past")
    database: Any = importlib.import_module("pipeline.books.database")
    with tempfile.TemporaryDirectory() as folder:
        opened = database.Database(f"sqlite:///{Path(folder) / 'books.db'}")
        await opened.start()
        began_s = time.process_time()

        def wanted(one: Any) -> Any:
            return books.wanted(one, name, 1, span)

        plan = await opened.read(wanted)
        await books.PastWriter(opened, make_site(name)).write(plan, make_past(name, 1, span))
        whole_s = time.process_time() - began_s
        size = _size(Path(folder))
        await opened.close()
    return {
        "site": name, "hours": hours, "rows": rows, "made_s": round(made_s, 1),
        "written_s": round(whole_s, 1), "megabytes": round(size / 1e6),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both, or with `--json` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=100_000)
    parser.add_argument("--past", default="aisc-phase2")
    parser.add_argument("--hours", type=int, default=720)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    results = [fleet(given.gpus), asyncio.run(past(given.past, given.hours))]
    if given.json:
        print(json.dumps({"benchmark": "simulate", "results": results}))
        return
    for result in results:
        print(", ".join(f"{name} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
