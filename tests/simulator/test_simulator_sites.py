"""The simulated sites are as large as they are said to be."""

from __future__ import annotations

from itertools import groupby

import pytest

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.models import find_model
from collectors.simulator.sites import make_site, site_names


@pytest.mark.parametrize(
    ("name", "nodes", "gpus", "pflops"),
    [
        ("aisc-phase1", 244, 1952, 1302.7),
        ("aisc-phase2", 459, 3672, 3004.5),
        ("demo", 8, 64, 41.6),
        ("synthetic:30000", 3750, 30000, 29682.0),
    ],
)
def test_size_and_nameplate(name: str, nodes: int, gpus: int, pflops: float):
    site = make_site(name)
    assert len(site.nodes) == nodes
    assert site.gpus(0) == gpus
    assert site.pflops(0) == pytest.approx(pflops, abs=0.06)


def test_phase2_keeps_phase1_as_it_is():
    assert make_site("aisc-phase2").nodes[:244] == make_site("aisc-phase1").nodes


@pytest.mark.parametrize("name", [*site_names(), "synthetic:800"])
def test_places_are_distinct_readable_and_equally_long(name: str):
    site = make_site(name)
    names = [node.name for node in site.nodes]
    assert len(set(names)) == len(names)
    assert len({len(text) for text in names}) == 1
    for node in site.nodes:
        assert node.name.startswith(node.rack)
        assert find_model(node.model) is not None
        assert len(set(node.slots)) == 8
        assert [parse_slot(slot_text(slot)) for slot in node.slots] == list(node.slots)
    racks = [len(list(group)) for _, group in groupby(site.at(0), key=lambda node: node.rack)]
    assert max(racks) <= 8
    assert min(racks) >= 4


@pytest.mark.parametrize("name", ["atlantis", "synthetic:", "synthetic:12", "synthetic:-8", ""])
def test_an_unknown_site_is_refused_with_what_to_write(name: str):
    with pytest.raises(ValueError, match=r"aisc-phase1|multiple of 8"):
        make_site(name)
