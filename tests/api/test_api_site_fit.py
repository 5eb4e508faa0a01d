"""A site file that does not fit the real GPUs: the agent, the watch, the API and the commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
from api_parts import Centre, client_of, until
from click.testing import CliRunner, Result
from fastapi import FastAPI

from collectors.agent.settings import NodeSettings
from collectors.agent.source import AgentSource, make_backend
from collectors.contract.bus import Chunk, Partition
from collectors.contract.facts import NodeFacts
from collectors.contract.inventory import Inventory
from collectors.contract.inventory_file import load_inventory
from collectors.contract.topics import FACTS, dumps
from collectors.doctor import doctor
from collectors.draft.commands import draft_site
from pipeline.api.app import create_app
from pipeline.api.deps import ApiDeps
from pipeline.api.fleet_log import FleetLog
from pipeline.api.models_fleet import Agents
from pipeline.api.server import run_server
from pipeline.api.settings import ApiSettings
from pipeline.health import HealthBoard
from pipeline.watch.role import Watch, WatchOptions

SITE = """[site]
name = "north"
time_zone = "Asia/Hong_Kong"
[[nodes]]
hall = "A"
rack = "a03"
names = "a03n01"
model = "H800-SXM"
slots = 8
from = 2026-01-01
"""


@asynccontextmanager
async def running(centre: Centre, folder: Path) -> AsyncGenerator[None]:
    """An agent of a simulated node, whose GPUs stand at addresses of their own."""
    settings = NodeSettings(
        node="a03n01", backend="sim", interval_s=0.2, topic_prefix="t.", metrics_port=0,
        kernel_log=False, attribution=False, spool=folder / "spool.db",
    )  # fmt: skip
    backend = make_backend("sim", centre.clock, 0.2)
    await asyncio.to_thread(backend.open)
    source, producer, stop = (
        AgentSource(backend, centre.clock, settings),
        centre.bus.producer(),
        asyncio.Event(),
    )
    await producer.start()
    sending = asyncio.create_task(source.run(producer, stop))
    try:
        yield
    finally:
        stop.set()
        await sending
        await producer.stop()


@asynccontextmanager
async def watched(
    centre: Centre, inventory: Callable[[], Inventory]
) -> AsyncGenerator[HealthBoard]:
    """A watch of the same bus."""
    board, stop = HealthBoard("watch", "1", centre.clock), asyncio.Event()
    options = WatchOptions(prefix="t.", frame_s=0.2)
    watching = asyncio.create_task(
        Watch(centre.bus, inventory, options, centre.clock, board).run(stop)
    )
    try:
        yield board
    finally:
        stop.set()
        await watching


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[str]:
    """The application on a free port of loopback."""
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(run_server(app, "127.0.0.1", 0, stop, on_ready=port.set_result))
    try:
        yield f"http://127.0.0.1:{await port}"
    finally:
        stop.set()
        await serving


def gpus_told(app: FastAPI) -> int:
    """How many GPUs the API knows the agent to have."""
    _, facts = app.state.api.fleet_log.facts.get("a03n01", (0, None))
    return 0 if facts is None else len(facts.gpus)


async def run(command: click.Command, *options: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, command, options)


async def test_whose_addresses_are_made_up_is_told_the_line_that_fits(
    centre: Centre, tmp_path: Path
) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    holds = [load_inventory(file)]
    deps = ApiDeps(centre.bus, centre.series, lambda: holds[-1], centre.clock, centre.board,
                   topic_prefix="t.")  # fmt: skip
    app = create_app(deps, ApiSettings())
    async with (
        watched(centre, lambda: holds[-1]) as board,
        running(centre, tmp_path),
        served(app) as url,
    ):
        await until(lambda: board.value("gpus_unknown") == 8)
        await until(lambda: gpus_told(app) == 8)
        found = await run(doctor, "--fleet", "--url", url)
        assert found.exit_code == 1
        assert "GPUs that the inventory lacks, so that they count for nothing" in found.output
        [line] = [one for one in found.output.splitlines() if "Write in its entry" in one]
        # What is told is what is to be written.
        file.write_text(SITE.replace("slots = 8", line.partition("site.toml: ")[2]))
        holds.append(load_inventory(file))
        await until(lambda: board.value("gpus_unknown") == 0)
        fitting = await run(doctor, "--fleet", "--url", url)
        assert "inventory" not in fitting.output, fitting.output
        drafted = await run(draft_site, "--url", url, "--time-zone", "Asia/Hong_Kong")
        assert drafted.exit_code == 0, drafted.output
        file.write_text(drafted.stdout)
        [node] = load_inventory(file).nodes
        assert (node.name, node.model) == ("a03n01", "H800-SXM")
        assert node.slots == holds[-1].nodes[0].slots


async def test_the_first_word_of_a_node_is_remembered(centre: Centre) -> None:
    log = FleetLog(centre.bus, "t.", centre.clock, centre.board)
    value = dumps(NodeFacts("n1", 5, "measured", "0.1.0", "nvml"))
    for offset, bus_us in enumerate((200, 100, 300)):
        log.take([Chunk(Partition("t." + FACTS, 0), [offset], [bus_us], [b"n1"], [value])])
    assert log.first_us == {"n1": 100}
    assert log.facts["n1"][0] == 300


async def test_the_api_says_where_agent_and_inventory_differ(
    centre: Centre, tmp_path: Path
) -> None:
    app = centre.app()
    async with running(centre, tmp_path), client_of(app) as client:
        await until(lambda: gpus_told(app) == 8)
        answer = (await client.get("/api/v1/agents", params={"node": "a03n01"})).json()
        silent = (await client.get("/api/v1/agents", params={"node": "a01n01"})).json()
    [row] = Agents.model_validate(answer).agents
    assert not row.installed
    assert row.unlisted[:2] == ["0000:1b:00.0", "0000:43:00.0"]
    assert (len(row.unlisted), row.unheard) == (8, [])
    assert (row.slots_line or "").startswith('slots = ["0000:1b:00.0", "0000:43:00.0", ')
    assert row.heard_since_us is not None
    assert abs(row.heard_since_us - centre.clock.wall_us()) < 120_000_000
    [row] = Agents.model_validate(silent).agents
    assert (row.known, row.unlisted, row.unheard, row.slots_line) == (False, [], [], None)
