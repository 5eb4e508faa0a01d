"""A real Slurm, its prologs and epilogs, the agents' attribution on both nodes, and the watcher."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.attribution.attributor import Attributor, Place
from collectors.attribution.settings import AttributionSettings
from collectors.contract.bus import Message, Producer
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.topics import ALLOC, FACTS, dumps, topic_specs
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.slurm.settings import SlurmSettings
from collectors.slurm.tools import SlurmTools
from collectors.slurm.watcher import Watcher

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "deploy/services"))

if TYPE_CHECKING:
    from slurm_cluster import SlurmCluster

NODES = ("n1", "n2")
SLOTS = [pack_slot(Slot(0, 0x10 + number, 0, 0)) for number in range(4)]
TEXTS = [slot_text(slot) for slot in SLOTS]
PLACES = [
    Place(slot, f"GPU-{number:08x}-0000-4000-8000-0000000000aa", number, None)
    for number, slot in enumerate(SLOTS)
]
_HOOK = """\
#!/bin/sh
# As Slurm does in slurmctld's first seconds: it tells nothing.
case $SLURM_JOB_ID in *7) unset SLURM_JOB_GPUS CUDA_VISIBLE_DEVICES ;; esac
[ {name} = epilog ] ||
    echo "$SLURMD_NODENAME $SLURM_JOB_ID $(date +%s) $SLURM_JOB_GPUS" >>{folder}/prologs.log
PETAWATCH_JOBS={folder}/jobs-$SLURMD_NODENAME
export PETAWATCH_JOBS
exec /bin/sh {script}
"""


def write_hooks(folder: Path) -> dict[str, Path]:
    """The scripts of deploy/slurm, with a folder of mapping files for each node, and the prolog's
    own record of what it was told.  Of one job in ten no prolog is told anything."""
    hooks: dict[str, Path] = {}
    (folder / "prologs.log").touch()
    for name in ("prolog", "epilog"):
        hooks[name] = folder / f"{name}-of-both"
        script = ROOT / f"deploy/slurm/{name}.sh"
        hooks[name].write_text(_HOOK.format(name=name, folder=folder, script=script))
        hooks[name].chmod(0o755)
    return hooks


def prologs_record(folder: Path) -> dict[tuple[str, str], list[tuple[int, set[int]]]]:
    """By (node, job) when each of its prologs ran, and the numbers of the GPUs that it was told.

    That of a job that was ended meanwhile, or began in slurmctld's first seconds, is told none.
    """
    found: dict[tuple[str, str], list[tuple[int, set[int]]]] = defaultdict(list)
    for line in (folder / "prologs.log").read_text(encoding="utf-8").splitlines():
        node, job, time_s, *gpus = line.split()
        if gpus:
            found[node, job].append((int(time_s), {int(one) for one in gpus[0].split(",")}))
    return dict(found)


class World:
    """The bus, two agents' attribution, and a watcher that can be started again."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.clock = SystemClock()
        self.bus = SqliteBus(folder / "bus.db", clock=self.clock)
        self.producer: Producer = self.bus.producer()
        self.settings = SlurmSettings(
            state=folder / "state/slurm.json", poll_s=1, accounting_s=1, timeout_s=30
        )
        self.watcher = self._new_watcher()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._attributors = [
            Attributor(
                node,
                AttributionSettings(
                    cgroups=folder / "no-cgroups",
                    pod_resources=folder / "no.sock",
                    pod_logs=folder / "no-pods",
                    job_mappings=(folder / f"jobs-{node}",),
                    state=folder / f"state/claims-{node}.json",
                ),
                self.clock,
            )
            for node in NODES
        ]

    def _new_watcher(self) -> Watcher:
        tools = SlurmTools(timeout_s=30, variables=self.cluster.environ)
        return Watcher(self.settings, self.bus, tools, self.clock)

    async def start(self) -> None:
        await self.bus.create_topics(topic_specs())
        await self.producer.start()
        for node in NODES:
            gpus = tuple(GpuFacts(text, number=number) for number, text in enumerate(TEXTS))
            facts = NodeFacts(node, self.clock.wall_us(), "measured", "0", "nvml", gpus=gpus)
            await self.producer.send([Message(FACTS, facts.key, dumps(facts))])
        self.begin_watching()

    def begin_watching(self) -> None:
        """A watcher, or another life of it."""
        self._stop = asyncio.Event()
        self.watcher = self._new_watcher()
        self._running = asyncio.create_task(self.watcher.run(self._stop))

    async def end_watching(self, *, at_once: bool = False) -> None:
        """Asks it to end, or cuts it off."""
        if self._running is None:
            return
        if at_once:
            self._running.cancel()
        self._stop.set()
        await asyncio.gather(self._running, return_exceptions=at_once)
        self._running = None

    async def look(self) -> int:
        """One look of both agents; how many records they had to tell."""
        told = 0
        for attributor in self._attributors:
            found = await asyncio.to_thread(attributor.poll, PLACES, ())
            told += len(found.allocations)
            if found.allocations:
                await self.producer.send(
                    [Message(ALLOC, one.key, dumps(one)) for one in found.allocations]
                )
        return told

    async def close(self) -> None:
        await self.end_watching(at_once=True)
        await self.producer.stop()
        await self.bus.close()
