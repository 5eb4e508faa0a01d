"""`petawatch draft-site`: whatever agents say, the reader takes what is written."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.bus import Message
from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.identity import Slot, pack_slot, parse_slot, slot_text
from collectors.contract.inventory_file import parse_inventory
from collectors.contract.models import find_model
from collectors.contract.site_fit import fit_of, whole_gpus
from collectors.contract.site_toml import expand, is_name
from collectors.contract.topics import FACTS, dumps, topic_specs
from collectors.draft.commands import draft_site
from collectors.draft.heard import Heard
from collectors.draft.names import fold
from collectors.draft.text import Wishes, draft
from collectors.kit.buses import open_bus
from collectors.kit.clock import SystemClock
from collectors.kit.config import ConfigError
from collectors.kit.sqlite_log import SqliteBus

NOW_US = 1_795_500_000_000_000
DAY_US = 86_400_000_000
ZONE = ZoneInfo("Asia/Hong_Kong")
WISHES = Wishes("north", ZONE, NOW_US)
H800, A800 = "NVIDIA H800", "NVIDIA A800-SXM4-80GB"
FILE = Path("site.toml")


def gpus(*slots: str, model: str = H800) -> tuple[GpuFacts, ...]:
    return tuple(GpuFacts(slot, model=model) for slot in slots)


def heard(node: str, own: tuple[GpuFacts, ...], *, days: int = 0) -> Heard:
    """A node that was heard of first two days ago and last some days ago."""
    return Heard(node, own, NOW_US - max(2, days) * DAY_US, NOW_US - days * DAY_US)


TWO = gpus("0000:1b:00.0", "0000:43:00.0")


def test_nodes_alike_are_one_entry_and_names_fold() -> None:
    nodes = [heard(f"a{rack:02}n{n}", TWO) for rack in (1, 2) for n in range(1, 12)]
    nodes.append(heard("login", gpus("0000:65:00.0", model=A800)))
    made = draft(
        nodes, Wishes("north", ZONE, NOW_US, re.compile("^[a-z]"), re.compile(r"^(a\d+)n"))
    )
    assert (made.nodes, made.left_out) == (23, 0)
    assert made.text.count("[[nodes]]") == 3
    assert 'hall = "a"\nrack = "a01"\nnames = ["a01n[1-11]"]\nmodel = "H800-SXM"\n' in made.text
    assert 'slots = ["0000:1b:00.0", "0000:43:00.0"]\nfrom = 2026-11-22\n' in made.text
    assert 'hall = "l"\nrack = "unknown"\nnames = ["login"]' in made.text
    site = parse_inventory(FILE, made.text)
    assert (site.name, site.time_zone, site.gpus(NOW_US)) == ("north", "Asia/Hong_Kong", 45)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (heard("n2", ()), "speaks of no GPU"),
        (heard("n2", gpus("0000:1b:00.0", model="Quantum 9\n9")), "the model is not known"),
        (heard("n2", gpus("0000:1b:00.0", model="")), "the model is not known"),
        (heard("n\n2", TWO), "letters, digits"),
        (heard("n2", gpus("1b")), "speaks of no GPU"),
        (heard("n2", TWO, days=3), "nothing was heard since 2026-11-21"),
    ],
)
def test_what_cannot_be_an_entry_is_told_and_not_read(node: Heard, said: str) -> None:
    made = draft([heard("n1", TWO), node], WISHES)
    assert (made.nodes, made.left_out) == (1, 1)
    assert re.search(f"^# Left out: .*{said}", made.text, re.MULTILINE)
    assert [one.name for one in parse_inventory(FILE, made.text).nodes] == ["n1"]
    alone = draft([node], WISHES)
    assert alone.nodes == 0
    with pytest.raises(ConfigError, match="at least one"):
        parse_inventory(FILE, alone.text)


def test_two_models_in_a_node_are_pointed_at() -> None:
    mixed = (*TWO, *gpus("0000:65:00.0", model=A800))
    made = draft([heard("n1", mixed)], WISHES)
    assert (
        f"# Look here: it has 1 × {A800} too, and an entry has one model.\n[[nodes]]" in made.text
    )
    [node] = parse_inventory(FILE, made.text).nodes
    assert (node.model, len(node.slots)) == ("H800-SXM", 3)


def test_instances_stand_for_their_gpu() -> None:
    parts = tuple(
        GpuFacts(f"0000:1b:00.0/{n}/0", model=H800, parent="0000:1b:00.0") for n in (1, 2)
    )
    assert whole_gpus((*TWO, *parts)) == whole_gpus(TWO)
    assert whole_gpus(parts) == (parse_slot("0000:1b:00.0"),)


def test_a_fit_names_both_sides_and_the_line() -> None:
    site = draft([heard("n1", TWO)], WISHES).text
    [node] = parse_inventory(FILE, site).nodes
    assert fit_of(node, TWO).line is None
    moved = fit_of(node, gpus("0000:43:00.0", "0000:ff:00.0"))
    assert [slot_text(slot) for slot in moved.unlisted] == ["0000:ff:00.0"]
    assert [slot_text(slot) for slot in moved.unheard] == ["0000:1b:00.0"]
    assert moved.line == 'slots = ["0000:43:00.0", "0000:ff:00.0"]'
    nothing = fit_of(node, ())
    assert (len(nothing.unheard), nothing.unlisted, nothing.line) == (2, (), None)
    assert len(fit_of(None, TWO).unlisted) == 2


part = st.sampled_from(["a", "n", "-", "."])
number = st.integers(0, 12).flatmap(
    lambda n: st.integers(0, 3).map(lambda width: str(n).zfill(width))
)
usual_names = st.lists(st.one_of(part, number), min_size=1, max_size=4).map("".join)


@given(st.sets(usual_names, max_size=30))
def test_folded_names_expand_to_the_same(names: set[str]) -> None:
    assert sorted(name for pattern in fold(names) for name in expand(pattern)) == sorted(names)


def test_folding_is_short() -> None:
    assert fold(f"a03n{n:02}" for n in range(1, 13)) == ["a03n[01-12]"]
    mixed = ["n9", "n10", "n09", "n010", "n12", "x"]
    assert fold(mixed) == ["n010", "n12", "n9", "n[09-10]", "x"]


slots = st.tuples(st.integers(0, 2**16), st.integers(0, 255), st.integers(0, 31), st.just(0)).map(
    lambda place: pack_slot(Slot(*place))
)
models = st.one_of(st.sampled_from([H800, A800, "H100-SXM", " Tesla T4 ", ""]), st.text(max_size=8))


@st.composite
def whole(draw: st.DrawFn) -> list[GpuFacts]:
    slot, model = slot_text(draw(slots)), draw(models)
    parts = draw(st.integers(0, 2))
    own = [GpuFacts(slot, model=model)]
    return own + [GpuFacts(f"{slot}/{n}/0", model=model, parent=slot) for n in range(parts)]


@st.composite
def nodes(draw: st.DrawFn) -> Heard:
    own = [one for gpu in draw(st.lists(whole(), max_size=4)) for one in gpu]
    ago = draw(st.integers(-DAY_US, 3 * DAY_US))
    first = NOW_US - ago - draw(st.integers(0, NOW_US))
    name = draw(st.one_of(usual_names, st.text(max_size=70)))
    return Heard(name, tuple(own), first, NOW_US - ago)


patterns = st.sampled_from([None, "^a", r"(\d+)", r"(x)?a", ".*", ""]).map(
    lambda text: text if text is None else re.compile(text)
)


@given(
    st.lists(nodes(), max_size=12, unique_by=lambda one: one.node),
    st.text(min_size=1, max_size=12).filter(str.strip),
    st.sampled_from(["UTC", "Asia/Hong_Kong", "America/Santiago", "Pacific/Apia"]),
    patterns,
    patterns,
    st.one_of(st.none(), st.dates(date(1, 1, 2))),
)
@settings(max_examples=100, deadline=None)
def test_whatever_agents_say_the_reader_takes_it(
    fleet: list[Heard], name: str, zone: str, hall: Any, rack: Any, since: date | None
) -> None:
    made = draft(fleet, Wishes(name, ZoneInfo(zone), NOW_US, hall, rack, since))
    assert made.nodes + made.left_out == len(fleet)
    if not made.nodes:
        return
    site = parse_inventory(FILE, made.text)
    assert (site.name, site.time_zone) == (name, zone)
    told = {one.node: one for one in fleet}
    assert len(site.nodes) == len({one.name for one in site.nodes}) == made.nodes
    for node in site.nodes:
        assert node.slots == whole_gpus(told[node.name].gpus)
        assert node.model in {
            row.key for gpu in told[node.name].gpus if (row := find_model(gpu.model))
        }
        if since is None:
            assert node.from_us <= max(0, min(told[node.name].first_us, NOW_US))
    for one in fleet:
        known = [find_model(gpu.model) for gpu in one.gpus]
        if is_name(one.node) and known and all(known) and NOW_US - one.last_us <= DAY_US:
            assert one.node in {node.name for node in site.nodes}


def run(*options: str) -> Result:
    return CliRunner().invoke(draft_site, options)


async def test_the_bus_is_read_beside_its_writer(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    bus = SqliteBus(file, clock=SystemClock())
    await bus.create_topics(topic_specs("t."))
    options = ["--bus", f"sqlite:///{file}", "--topic-prefix", "t.", "--time-zone", "UTC"]
    assert (await asyncio.to_thread(run, *options)).exit_code == 1
    producer = bus.producer()
    await producer.start()
    said = [NodeFacts(f"n{n}", 5, "measured", "0.1.0", "nvml", gpus=TWO) for n in (1, 2)]
    values = [dumps(said[0]), b"no facts", dumps(said[1]), dumps(said[0])]
    await producer.send([Message("t." + FACTS, b"n", value) for value in values])
    found = await asyncio.to_thread(run, *options)
    missing = await asyncio.to_thread(run, *options, "--topic-prefix", "other.")
    await producer.stop()
    await bus.close()
    assert found.exit_code == 0, found.output
    assert 'names = ["n[1-2]"]' in found.stdout
    assert "2 nodes; 0 left out" in found.stderr
    assert parse_inventory(FILE, found.stdout).nodes[0].slots == whole_gpus(TWO)
    assert isinstance(missing.exception, ConnectionError)
    assert "other.telemetry.facts is not there" in str(missing.exception)


@pytest.mark.stack
async def test_kafka_is_read(kafka_url: str) -> None:
    prefix = f"t{secrets.token_hex(4)}."
    bus = open_bus(kafka_url, SystemClock())
    await bus.create_topics([one for one in topic_specs(prefix) if one.name == prefix + FACTS])
    producer = bus.producer()
    await producer.start()
    try:
        said = [NodeFacts(f"n{n}", 5, "measured", "0.1.0", "nvml", gpus=TWO) for n in (1, 2, 2)]
        await producer.send([Message(prefix + FACTS, one.key, dumps(one)) for one in said])
        options = ["--bus", kafka_url, "--topic-prefix", prefix, "--time-zone", "UTC"]
        found = await asyncio.to_thread(run, *options)
    finally:
        await producer.stop()
        await bus.delete_topics([prefix + FACTS])
        await bus.close()
    assert found.exit_code == 0, found.output
    assert 'names = ["n[1-2]"]' in found.stdout


@pytest.fixture
def api() -> Iterator[tuple[list[dict[str, Any]], str]]:
    """What an API answers, and where it is."""
    agents: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"agents": agents}).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base's
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield agents, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_api_is_asked(api: tuple[list[dict[str, Any]], str]) -> None:
    agents, url = api
    one = {"known": True, "age_s": 5.0, "gpus": msgspec.to_builtins(TWO), "new_field": 1}
    agents += [
        {**one, "node": "n1", "heard_since_us": 1_767_225_600_000_000},
        {**one, "node": "n2"},
        {"node": "n3", "known": False},
    ]
    found = run("--url", url, "--time-zone", "UTC", "--name", 'n"1')
    assert found.exit_code == 0, found.output
    site = parse_inventory(FILE, found.stdout)
    assert site.name == 'n"1'
    assert {one.name for one in site.nodes} == {"n1", "n2"}
    assert site.nodes[0].from_us == 1_767_225_600_000_000
    dated = run("--url", url, "--time-zone", "UTC", "--from", "2025-02-03")
    assert dated.stdout.count("from = 2025-02-03") == 1
    agents[:] = [{"name": "n1"}]
    assert run("--url", url, "--time-zone", "UTC").exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--time-zone"),
        (["--time-zone", "HKT"], "write one like Asia/Tokyo"),
        (["--time-zone", "Asia/Hongkong"], "Asia/Hong_Kong"),
        (["--time-zone", "UTC", "--rack-of", "("], "not a regular expression"),
        (["--time-zone", "UTC", "--name", " "], "write a name"),
        (["--time-zone", "UTC", "--from", "soon"], "--from"),
    ],
)
def test_slips_are_named(options: list[str], said: str) -> None:
    found = run(*options)
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.parametrize("url", ["carrier://pigeon", "sqlite:"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    assert isinstance(run("--time-zone", "UTC", "--bus", url).exception, ConfigError)


def test_a_bus_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    found = run("--time-zone", "UTC", "--bus", f"sqlite:///{file}")
    assert isinstance(found.exception, ConnectionError)
    assert not file.exists()
