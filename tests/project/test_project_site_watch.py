"""The site's files are taken over when they change, whole, and never with a slip."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from collectors.kit.clock import SystemClock
from pipeline.commands.site import SiteWatch, inventory_of
from pipeline.commands.wiring import Installation, install
from pipeline.settings import Settings

SITE = """\
[site]
name = "north"
time_zone = "Asia/Hong_Kong"

[[nodes]]
hall = "A"
rack = "a1"
names = "n[1-2]"
model = "H800-SXM"
"""
TENANTS = """\
[[tenants]]
id = "ape"

[[names]]
tenant = "ape"
accounts = ["lab"]
"""
RESERVED = '\n[[reservations]]\nid = "r"\ntenant = "ape"\nnodes = "n3"\n'


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncGenerator[Installation]:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "tenants.toml").write_text(TENANTS)
    settings = Settings(
        data=tmp_path, site=str(tmp_path / "site.toml"), tenants=tmp_path / "tenants.toml"
    )
    clock = SystemClock()
    made = install(settings, clock, inventory_of(settings, clock), series=False, books=False)
    yield made
    await made.close()


def names(installation: Installation) -> list[str]:
    return [node.name for node in installation.inventory.nodes]


async def test_a_change_counts_once_it_is_settled(
    installation: Installation, tmp_path: Path
) -> None:
    board = installation.board("serve")
    watch = SiteWatch(installation, board)
    before = installation.inventory
    await watch.look()
    (tmp_path / "site.toml").write_text(SITE.replace("[1-2]", "[1-3]"))
    await watch.look()
    assert installation.inventory is before  # it may be half written
    await watch.look()
    assert names(installation) == ["n1", "n2", "n3"]
    tenants = installation.tenants
    (tmp_path / "tenants.toml").write_text(TENANTS + RESERVED)
    for _ in range(2):
        await watch.look()
    assert [one.id for one in installation.tenants.claims] == ["r"]
    assert installation.tenants is not tenants
    assert board.total("site_files_taken") == 2


async def test_a_slip_leaves_all_as_it_was_and_is_shown(
    installation: Installation, tmp_path: Path
) -> None:
    board = installation.board("serve")
    watch = SiteWatch(installation, board)
    inventory, tenants = installation.inventory, installation.tenants
    # The reservation is of a node that the inventory does not have.
    (tmp_path / "tenants.toml").write_text(TENANTS + RESERVED)
    (tmp_path / "site.toml").write_text(SITE.replace("[1-2]", "[1-4]").replace("H800", "H8000"))
    for _ in range(2):
        await watch.look()
    assert (installation.inventory, installation.tenants) == (inventory, tenants)
    (row,) = board.record().values["site_files_refused"]
    assert "site.toml:9: model" in row.labels["reason"]
    (tmp_path / "site.toml").write_text(SITE)
    for _ in range(2):
        await watch.look()
    (row,) = board.record().values["site_files_refused"]
    assert "tenants.toml:11: nodes" in row.labels["reason"]
    (tmp_path / "site.toml").unlink()
    for _ in range(2):
        await watch.look()
    assert names(installation) == ["n1", "n2"]
    (tmp_path / "site.toml").write_text(SITE.replace("[1-2]", "[1-4]"))
    for _ in range(2):
        await watch.look()
    assert len(names(installation)) == 4
    assert not board.record().values.get("site_files_refused")


async def test_what_says_the_same_stays_the_same(
    installation: Installation, tmp_path: Path
) -> None:
    watch = SiteWatch(installation, installation.board("serve"))
    inventory = installation.inventory
    (tmp_path / "site.toml").write_text("# a remark\n" + SITE)
    for _ in range(2):
        await watch.look()
    assert installation.inventory is inventory
