"""site.toml: reads back what is written, and every slip is refused with its line."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.contract.identity import Slot, pack_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.inventory_file import dump_inventory, load_inventory
from collectors.contract.site_toml import expand
from collectors.kit.config import ConfigError

SITE = """[site]
name = "north"
title = "North campus"
time_zone = "Asia/Hong_Kong"
"""
NODES = """
[[nodes]]
hall = "A"
rack = "a03"
names = "a03n[01-08]"
model = "H800-SXM"
from = 2026-01-01
"""


def read(folder: Path, text: str) -> Inventory:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return load_inventory(path)


def test_a_short_file(tmp_path: Path) -> None:
    site = read(tmp_path, SITE + NODES)
    assert (site.name, site.title, site.time_zone) == ("north", "North campus", "Asia/Hong_Kong")
    assert (site.precision, site.sparsity, site.clock_basis) == ("FP16", "dense", "boost clock")
    assert [node.name for node in site.nodes] == [f"a03n0{n}" for n in range(1, 9)]
    first = site.nodes[0]
    assert [slot_text(slot) for slot in first.slots][::7] == ["0000:01:00.0", "0000:08:00.0"]
    assert first.pflops_per_gpu == pytest.approx(0.9894)
    assert first.from_us == 1_767_196_800_000_000  # midnight of the site, 16:00 UTC the day before
    assert first.to_us is None


def test_slots_dates_and_nameplate_as_written(tmp_path: Path) -> None:
    entry = (
        NODES.replace('"a03n[01-08]"', '["x1", "y[9-10]"]')
        + 'slots = ["0000:1b:00.0", "0000:43:00.0"]\npflops_per_gpu = 1.5\n'
        + "to = 2026-02-01T00:00:00Z\n"
    )
    site = read(tmp_path, SITE + 'precision = "FP8"\n' + entry)
    assert [node.name for node in site.nodes] == ["x1", "y9", "y10"]
    assert site.nodes[0].to_us == 1_769_904_000_000_000
    assert site.gpus(1_769_000_000_000_000) == 6
    assert site.pflops(1_769_000_000_000_000) == 9.0
    assert site.precision == "FP8"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rack =", "rak =", [":8: rak", 'did you mean "rack"']),
        ('model = "H800-SXM"', 'model = "H800-SXN"', [":10: model", 'did you mean "H800-SXM"']),
        ("Hong_Kong", "Hongkong", [":4: time_zone", 'did you mean "Asia/Hong_Kong"']),
        ('"Asia/Hong_Kong"', '"HKT"', ["time_zone", "write one like"]),
        ("time_zone", "time_zon", [":4: time_zon", 'did you mean "time_zone"']),
        ('rack = "a03"', "rack = 3", [":8: rack", "text in quotes"]),
        ('hall = "A"\n', "", ["hall: is missing", "write hall ="]),
        ('"a03n[01-08]"', '"a 1"', [":9: names", "not a name"]),
        ('"a03n[01-08]"', "[]", [":9: names"]),
        ("2026-01-01", '"soon"', [":11: from", "2026-01-31"]),
        ("2026-01-01", "2026-01-01\nto = 2025-01-01", [":12: to", "later"]),
        ("2026-01-01", "2026-01-01\nslots = 0", [":12: slots"]),
        ("2026-01-01", '2026-01-01\nslots = ["1b"]', [":12: slots", "0000:1b:00.0"]),
        ("2026-01-01", '2026-01-01\nslots = ["0:1b:00.0"]', ["not a PCI address"]),
        ("2026-01-01", '2026-01-01\nslots = ["1b:00.0", "0000:1b:00.0"]', ["twice"]),
        ("2026-01-01", "2026-01-01\npflops_per_gpu = true", [":12: pflops_per_gpu"]),
        ("[[nodes]]", "[[node]]", ['did you mean "nodes"']),
        ("[site]", "[sites]", ['did you mean "site"']),
        ("[[nodes]]", "[[nodes]", ["is not TOML"]),
        ("[[nodes]]", "[nodes]", ["nodes: write at least one [[nodes]] entry"]),
    ],
)
def test_a_slip_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    text = SITE + NODES
    assert old in text
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text.replace(old, new, 1))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_node_stands_once_at_a_time(tmp_path: Path) -> None:
    again = NODES.replace("[01-08]", "[08-09]")
    with pytest.raises(ConfigError, match=r":13: names: a03n08 stands in the entry of line 6 too"):
        read(tmp_path, SITE + NODES + again)
    later = again.replace("2026-01-01", "2027-01-01")
    with pytest.raises(ConfigError, match="a03n08"):
        read(tmp_path, SITE + NODES + later)
    ended = NODES + "to = 2027-01-01\n"
    assert len(read(tmp_path, SITE + ended + later).nodes) == 10


def test_ranges() -> None:
    assert expand("a[1-2]n[09-10]") == ["a1n09", "a1n10", "a2n09", "a2n10"]
    assert expand("plain") == ["plain"]
    assert expand("x[3-2]") == []


names = st.text(ascii_lowercase + "0123456789", min_size=1, max_size=6)
places = st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
slots = st.lists(places, min_size=1, max_size=4, unique=True).map(
    lambda found: tuple(pack_slot(Slot(*place)) for place in found)
)
moments = st.integers(1, 4_000_000_000_000_000)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    nodes: list[InstalledNode] = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        begin = draw(st.one_of(st.just(0), moments))
        end = draw(st.one_of(st.none(), moments.filter(lambda us, low=begin: us > low)))
        model = draw(st.sampled_from(["H800-SXM", "A800-SXM4-80GB"]))
        peak = draw(st.floats(0.001, 900))
        hall = draw(st.text(min_size=1, max_size=8).filter(str.strip))
        nodes.append(InstalledNode(name, hall, "r", model, draw(slots), peak, begin, end))
    return Inventory("n", draw(st.text(min_size=1).filter(str.strip)), "UTC", "FP16", "dense",
                     "boost", tuple(nodes))  # fmt: skip


@given(inventories())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_is_written_reads_back(tmp_path: Path, site: Inventory) -> None:
    assert read(tmp_path, dump_inventory(site)) == site
