"""Files in, cases out: every rule that is shipped has scenarios, every scenario its rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario_tools import SCENARIOS, played, read, transitions

from pipeline.watch.alerts.rules_file import load_rules

FILES = sorted(SCENARIOS.glob("*.toml"))
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
WITHIN_S = 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, tmp_path: Path) -> None:
    scenario = read(path)
    life = played(scenario, tmp_path)
    found = transitions(life, scenario.get("beside", []))
    wanted = [
        (
            one["rule"], one["subject"], one["state"], one.get("severity", "warning"), one["at"],
            one.get("within", WITHIN_S),
        )
        for one in scenario.get("expect", [])
    ]  # fmt: skip
    plain = [row[:4] for row in sorted(found, key=lambda row: (row[:2], row[4]))]
    assert plain == [row[:4] for row in sorted(wanted, key=lambda row: (row[:2], row[4]))], found
    for row in wanted:
        assert min(abs(row[4] - one[4]) for one in found if one[:4] == row[:4]) <= row[5], found


def test_every_rule_has_a_scenario_and_every_scenario_a_rule() -> None:
    expected = {one["rule"] for path in FILES for one in read(path).get("expect", [])}
    assert expected == {rule.name for rule in load_rules()}


def test_every_rule_has_a_runbook_and_every_runbook_a_rule() -> None:
    wanted = {rule.runbook for rule in load_rules()}
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == wanted


@pytest.mark.parametrize("name", sorted({rule.runbook for rule in load_rules()}))
def test_runbook_says_what_it_must(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["What it means", "How to confirm", "What to do", "When to escalate"]
    assert all(len(part.split()) >= 20 for part in text.split("## ")[1:]), name
    rules = [rule.name for rule in load_rules() if rule.runbook == name]
    assert all(f"`{rule}`" in text for rule in rules), rules
