"""The tenants file: what it says, and every slip named with its line and what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.tenants import Tenants
from collectors.contract.tenants_file import load_tenants
from collectors.contract.topics import Allocation, Subject
from collectors.kit.toml_file import ConfigError

DAY = 86_400_000_000
JAN, FEB = 1_767_196_800_000_000, 1_769_875_200_000_000
"""Midnight of 2026-01-01 and of 2026-02-01 in Hong Kong."""
SITE = Inventory(
    "t", "T", "Asia/Hong_Kong", "FP16", "dense", "boost clock",
    tuple(InstalledNode(f"a03n0{n}", "h", "r", "H800", (0x1B00, 0x4300), 1.0) for n in (1, 2)),
)  # fmt: skip
TEXT = """\
[[tenants]]
id = "north"
title = "North University"
kind = "university"
projects = ["gen", "sea"]

[[tenants]]
id = "acme"

[[names]]
tenant = "north"
project = "gen"
accounts = ["nu-gen"]
users = "wong"
from = 2026-01-01
to = 2026-02-01

[[names]]
tenant = "acme"
accounts = ["nu-gen"]
namespaces = ["acme-a", "acme-b"]
from = 2026-02-01

[[names]]
tenant = "north"
project = "sea"
accounts = ["nu-gen"]
cluster = "alpha"

[[reservations]]
id = "winter"
tenant = "north"
project = "gen"
nodes = "a03n[01-02]"
slots = ["0000:1b:00.0"]
slices = 2
from = 2026-01-01

[[maintenance]]
id = "coolant"
nodes = ["a03n02"]
from = 2026-01-01T08:00:00
to = 2026-01-01T09:00:00Z
"""


def read(folder: Path, text: str = TEXT) -> Tenants:
    path = folder / "tenants.toml"
    path.write_text(text)
    return load_tenants(path, SITE)


def claim(source: str = "s", **says: Any) -> Allocation:
    fields: dict[str, Any] = {"tenant": "", "from_us": JAN - DAY, "to_us": None, **says}
    return Allocation(
        source=source, id="1", project="", job="j", subjects=(Subject("a03n01"),), **fields
    )


def owners(tenants: Tenants, one: Allocation) -> list[tuple[int, str]]:
    return [
        (stretch.from_us, stretch.rule.tenant if stretch.rule else "")
        for stretch in tenants.stretches(one)
    ]


def test_what_it_says(tmp_path: Path) -> None:
    told = read(tmp_path)
    assert told.by_id["north"].projects == ("gen", "sea")
    assert (told.by_id["acme"].title, told.by_id["acme"].line) == ("acme", 7)
    winter, coolant = told.claims
    assert (winter.source, winter.id, winter.tenant) == ("file", "winter", "north")
    assert winter.subjects == (
        Subject("a03n01", ("0000:1b:00.0",)), Subject("a03n02", ("0000:1b:00.0",))
    )  # fmt: skip
    assert (winter.shared, winter.weight, winter.parts, winter.from_us) == (True, 2, 7, JAN)
    assert (coolant.kind, coolant.subjects) == ("maintenance", (Subject("a03n02"),))
    assert (coolant.from_us, coolant.to_us) == (JAN + DAY // 3, JAN + DAY // 24 * 17)


def test_whose_a_claim_is_changes_with_the_time(tmp_path: Path) -> None:
    told = read(tmp_path)
    changing = claim(account="nu-gen")
    assert owners(told, changing) == [(JAN - DAY, ""), (JAN, "north"), (FEB, "acme")]
    assert owners(told, claim(account="nu-gen", to_us=JAN)) == [(JAN - DAY, "")]
    assert owners(told, claim(account="nu-gen", to_us=JAN - DAY)) == []


def test_an_account_beats_a_namespace_and_that_a_user(tmp_path: Path) -> None:
    told = read(tmp_path)
    both = claim(namespace="acme-a", user="wong")
    assert owners(told, both) == [(JAN - DAY, ""), (JAN, "north"), (FEB, "acme")]
    three = claim(namespace="acme-a", user="wong", account="nu-gen", from_us=JAN)
    assert owners(told, three) == [(JAN, "north"), (FEB, "acme")]
    # Where a stronger name has no rule at a time, the next one says.
    other = claim(account="unheard", user="wong", from_us=JAN)
    assert owners(told, other) == [(JAN, "north"), (FEB, "")]


def test_a_cluster_s_own_rule_is_stronger(tmp_path: Path) -> None:
    told = read(tmp_path)
    alpha = told.stretches(claim("slurm:alpha", account="nu-gen"))
    assert [(one.rule.project, one.rule.line) for one in alpha if one.rule] == [("sea", 24)]
    beta = told.stretches(claim("slurm:beta", account="nu-gen", from_us=FEB))
    assert [one.rule.tenant for one in beta if one.rule] == ["acme"]


def test_a_claim_that_names_a_tenant_of_its_own_keeps_it(tmp_path: Path) -> None:
    told = read(tmp_path)
    own = claim(account="nu-gen", tenant="zoo", from_us=JAN)
    assert owners(told, own) == [(JAN, "")]
    # An agent that knows no better repeats the account as the tenant.
    repeated = claim(account="nu-gen", tenant="nu-gen", from_us=FEB)
    assert owners(told, repeated) == [(FEB, "acme")]
    upkeep = claim(account="nu-gen", kind="maintenance", from_us=FEB)
    assert owners(told, upkeep) == [(FEB, "")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "acme"', 'id = "north"', [":8: id", "line 1 too"]),
        ('id = "acme"', 'id = "a b"', [":8: id", "letters"]),
        ('kind = "university"', 'kid = "x"', [":4: kid", 'did you mean "kind"']),
        ('tenant = "acme"', 'tenant = "acmee"', [":19: tenant", 'did you mean "acme"']),
        ('project = "gen"', 'project = "gem"', [":12: project", 'did you mean "gen"']),
        ('project = "gen"\naccounts', "accounts", [":10: project", "is missing"]),
        ('tenant = "acme"', 'tenant = "acme"\nproject = "x"', [":20: project", "leave it out"]),
        ("from = 2026-02-01", "from = 2026-01-31", [
            ":20: accounts", "'nu-gen'", "north/gen", "line 10 too", "no later than",
        ]),
        ("to = 2026-02-01", "", [":20: accounts", "line 10 too"]),
        ("to = 2026-02-01", "to = 2025-02-01", [":16: to", "later than from"]),
        ('cluster = "alpha"', 'cluster = "alpha"\nfoo = 1', [":29: foo", "no such key"]),
        ('accounts = ["nu-gen"]\ncluster', 'users = ["x"]\ncluster', ["cluster", "accounts"]),
        ('namespaces = ["acme-a", "acme-b"]', "namespaces = [1]", [":21: namespaces", "quotes"]),
        ('users = "wong"', 'users = ""', [":14: users", "quotes"]),
        ("a03n[01-02]", "a03n[01-03]", [":34: nodes", "a03n03", "did you mean"]),
        ('"0000:1b:00.0"', '"0000:1c:00.0"', [":35: slots", "it has 0000:1b:00.0"]),
        ('"0000:1b:00.0"', '"1b"', [":35: slots", "0000:1b:00.0"]),
        ("slices = 2", "slices = 8", [":36: slices", "1 to 7"]),
        ('id = "coolant"', 'id = "winter"', [":40: id", "line 30 too"]),
        ("from = 2026-01-01T08:00:00\n", "", [":39: from", "when it begins"]),
        ("[[maintenance]]", "[maintenance]", ["[[maintenance]]"]),
        ("[[maintenance]]", "[[maintenence]]", ['did you mean "maintenance"']),
    ],
)  # fmt: skip
def test_a_slip_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    assert read(tmp_path, "").tenants == ()
