"""The agent as a source: what reaches the bus, in which topic, from which part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fake_nvml import FakeNvml, FakeProcess, eight_gpus
from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.settings import NodeSettings
from collectors.agent.source import AgentSource, create, make_backend
from collectors.contract.facts import NodeFacts
from collectors.contract.record import Origin
from collectors.contract.source import DeviceEvent, SourceOptions
from collectors.contract.topics import ALLOC, EVENTS, FACTS, GPU, Event, topic_specs
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus

CLOCK = SystemClock()
PREFIX = "t."


async def on_the_bus(
    source: AgentSource, folder: Path, enough: Callable[[dict[str, list[bytes]]], bool]
) -> dict[str, list[bytes]]:
    """Runs the source on a bus until there is enough there; its records by topic."""
    bus = SqliteBus(folder / "bus.sqlite", clock=CLOCK)
    await bus.create_topics(topic_specs(PREFIX, gpu_partitions=2))
    consumer = bus.consumer([PREFIX + name for name in (GPU, EVENTS, FACTS, ALLOC)], None)
    await consumer.start()
    producer, stop = bus.producer(), asyncio.Event()
    found: dict[str, list[bytes]] = {name: [] for name in (GPU, EVENTS, FACTS, ALLOC)}

    async def take() -> None:
        for chunk in await consumer.fetch(0.05):
            found[chunk.partition.topic.removeprefix(PREFIX)] += chunk.values

    running = asyncio.create_task(source.run(producer, stop))
    async with asyncio.timeout(20):
        while not enough(found):
            assert not running.done()
            await take()
    stop.set()
    await asyncio.wait_for(running, 30)
    for _ in range(3):
        await take()
    await producer.stop()
    await consumer.stop()
    await bus.close()
    return found


def settings(folder: Path, **changes: object) -> NodeSettings:
    base = NodeSettings(
        node="n1", interval_s=0.1, topic_prefix=PREFIX, metrics_port=0, kernel_log=False,
        attribution=False, spool=folder / "spool.sqlite",
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


async def test_each_thing_goes_to_its_topic(tmp_path: Path) -> None:
    backend = ScriptedBackend([ScriptedDevice(1, {"power_w": 5.0}), ScriptedDevice(2, {})])
    backend.hears = True
    backend.reports.put(DeviceEvent("xid", 1, "GPU-1", 31, "a tenant's program"))
    source = AgentSource(
        backend, CLOCK, settings(tmp_path), spool_path=tmp_path / "spool.sqlite", opened=True
    )
    found = await on_the_bus(
        source, tmp_path,
        lambda now: len(now[GPU]) >= 5 and bool(now[FACTS]) and len(now[EVENTS]) >= 2,
    )  # fmt: skip
    records = [parse(value) for value in found[GPU]]
    assert [record.sequence for record in records] == list(range(len(records)))
    assert {record.node for record in records} == {"n1"}
    events = [msgspec.json.decode(value, type=Event) for value in found[EVENTS]]
    assert [event.kind for event in events] == ["agent_start", "xid", "agent_stop"]
    assert events[1].concerns == "tenant"
    facts = msgspec.json.decode(found[FACTS][0], type=NodeFacts)
    assert [gpu.uuid for gpu in facts.gpus] == ["GPU-1", "GPU-2"]
    assert source.inventory.nodes[0].slots == (1, 2)


async def test_jobs_of_a_prolog_become_allocations_and_occupants(
    fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    """The whole way: mapping file, attributor, label and allocation."""
    gpus = eight_gpus()
    gpus[0].processes = [FakeProcess(1)]
    fake_nvml.write(gpus)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    job = {"gpu": gpus[0].uuid, "mig": None, "job": "4711", "user": "ada", "account": "physics"}
    (jobs / "gpu0.json").write_bytes(msgspec.json.encode(job))
    # A process namespace of its own, so that this machine's processes are no part of it.
    (tmp_path / "proc").mkdir()
    changes = settings(
        tmp_path, attribution=True, job_mappings=(jobs,), proc=tmp_path / "proc",
        pod_resources=tmp_path / "kubelet.sock", processes_s=0.2,
    )  # fmt: skip
    backend = make_backend(changes.backend, CLOCK, changes.interval_s)
    backend.open()
    source = AgentSource(backend, CLOCK, changes, spool_path=tmp_path / "spool.sqlite")

    def enough(now: dict[str, list[bytes]]) -> bool:
        labels = [label.occupant for value in now[GPU] for label in parse(value).labels]
        return bool(now[ALLOC]) and "slurm:4711" in labels

    found = await on_the_bus(source, tmp_path, enough)
    claim = msgspec.json.decode(found[ALLOC][0])
    assert (claim["job"], claim["account"], claim["user"]) == ("4711", "physics", "ada")
    assert claim["subjects"][0]["node"] == "n1"


def test_the_entry_point_takes_what_is_an_agents_and_refuses_the_rest() -> None:
    options = SourceOptions(node="n1", extra={"backend": "sim"})
    source = create(options, CLOCK)
    assert source.origin is Origin.SIMULATED
    assert [node.name for node in source.inventory.nodes] == ["n1"]
    for wrong in (
        SourceOptions(extra={"sipping": "1"}), SourceOptions(site="demo"), SourceOptions(speed=2),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="an agent"):
            create(wrong, CLOCK)
