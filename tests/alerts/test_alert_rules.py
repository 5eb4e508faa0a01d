"""Rules that cannot be are refused with file, line and what to write instead; a site's file
changes, adds and disables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from collectors.cli import main
from collectors.kit.toml_file import ConfigError
from pipeline.watch.alerts.groups import like_neighbours
from pipeline.watch.alerts.rules_file import load_rules

GOOD = """
[[rule]]
name = "mine"
scope = "gpu"
when = "gpu_temperature_c"
above = 80
clear = 75
family = "thermal"
runbook = "thermal_margin"
summary = "it is hot"
"""
WRONG = [
    ('when = "gpu_temperature_c"', 'when = "gpu_temprature_c"', 5, 'did you mean "gpu_temperature_c"'),
    ('when = "gpu_temperature_c"', 'when = "energy_mj"', 5, "write rate(energy_mj)"),
    ('when = "gpu_temperature_c"', 'when = "throttle_fraction(thermal)"', 5, "no throttle reason"),
    ('when = "gpu_temperature_c"', 'when = "slope(gpu_temperature_c)"', 5, "slope takes 2"),
    ('when = "gpu_temperature_c"', 'when = "event(xdi)"', 5, 'did you mean "xid"'),
    ('when = "gpu_temperature_c"', 'when = "health(stor, lag_s)"', 5, 'did you mean "store"'),
    ("above = 80", "above = 200", 6, "out of reach"),
    ("above = 80", "below = -50", 6, "out of reach"),
    ("above = 80", 'above = "80"', 6, "write a number"),
    ("above = 80", "above = 80\nbelow = 20", 6, "one of above and below"),
    ("clear = 75", "clear = 85", 7, "must lie below the level 80"),
    ("clear = 75", 'clear = 75\nunit = "K"', 8, "is in °C, not 'K'"),
    ("clear = 75", 'clear = 75\nfor = "5 minutes"', 8, "write 30s, 10m"),
    ("clear = 75", "clear = 75\ncritical = 70", 8, "must lie beyond above"),
    ("clear = 75", 'clear = 75\nalso = ["gpu_utilization > 2"]', 8, "out of reach"),
    ("clear = 75", 'clear = 75\nonly_when = ["bussy"]', 8, 'did you mean "busy"'),
    ("clear = 75", 'clear = 75\neach = "max"', 8, "needs none"),
    ('family = "thermal"', 'family = "heat"', 8, "'heat' is none"),
    ('runbook = "thermal_margin"', 'runbook = "thermal_margins"', 9, 'did you mean "thermal_margin"'),
    ('runbook = "thermal_margin"\n', "", 2, "every rule needs one"),
    ('scope = "gpu"', 'scope = "gpus"', 4, 'did you mean "gpu"'),
    ('scope = "gpu"', 'scope = "pipeline"', 4, "write health(ROLE, NAME)"),
    ('scope = "gpu"', 'scope = "rack"', 4, "write one of max, min"),
    ("above = 80", "above = nan", 6, "write a number"),
    ("clear = 75", 'clear = 75\nonly_when = "busy"', 8, "write a list"),
    ("clear = 75", 'clear = 75\ncodes = 79', 8, "codes = [79, 95]"),
    ("clear = 75", "clear = 75\ntitle = 5", 8, "write text in quotes"),
    ("above = 80\nclear = 75", "above = -80", 6, "it would always hold"),
    ("clear = 75", "clear = -60", 7, "alerts would never end"),
    ("clear = 75", "clear = 75\ncodes = [79]", 8, "is no event"),
    ("clear = 75", "clear = 75\neach_above = 5", 8, "goes with each = count"),
    ("clear = 75", 'clear = 75\ncritical_for = "1m"', 8, "goes with critical"),
    ("clear = 75", 'clear = 75\nenabled = "no"', 8, "write true or false"),
    ("clear = 75", 'clear = 75\nalso = ["busy > 1"]', 8, "out of reach"),
    ('"gpu_temperature_c"\nabove = 80\nclear = 75', '"hung"\nabove = 1', 6, "out of reach"),
    ('"gpu_temperature_c"\nabove = 80\nclear = 75', '"physics(rack_cooling)"', 4, "found of a rack"),
    ('runbook = "thermal_margin"', 'runbook = "https://"', 9, "write a whole address"),
    (GOOD, '\n[[rule]]\nname = "thermal_margin_lo"\nbelow = 5\n', 3, 'did you mean "thermal_margin_low"'),
    ('summary = "it is hot"', 'sumary = "it is hot"', 10, 'did you mean "summary"'),
]  # fmt: skip


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("good", "wrong", "line", "said"), WRONG, ids=[row[1][:60] for row in WRONG]
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, good: str, wrong: str, line: int, said: str
) -> None:
    assert good in GOOD
    path = written(tmp_path, GOOD.replace(good, wrong))
    with pytest.raises(ConfigError) as refused:
        load_rules(path)
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert said in str(refused.value)


def test_a_sites_file_changes_adds_and_disables(tmp_path: Path) -> None:
    text = GOOD + '[[rule]]\nname = "thermal_margin_low"\nbelow = 8\nclear = 11\n'
    text += '[[rule]]\nname = "power_capped"\nenabled = false\n'
    rules = {rule.name: rule for rule in load_rules(written(tmp_path, text))}
    shipped = {rule.name for rule in load_rules()}
    assert set(rules) == (shipped | {"mine"}) - {"power_capped"}
    assert rules["thermal_margin_low"].steps[0].level == 8
    assert rules["thermal_margin_low"].steps[1].level == 2


def test_a_sites_own_runbook_is_a_file_beside_its_rules(tmp_path: Path) -> None:
    (tmp_path / "heat.md").write_text("Open the window.")
    text = GOOD.replace('"thermal_margin"', '"heat.md"')
    assert any(rule.runbook == "heat.md" for rule in load_rules(written(tmp_path, text)))


def test_the_command_says_what_holds_and_what_is_wrong(tmp_path: Path) -> None:
    good = CliRunner().invoke(main, ["check-rules", str(written(tmp_path, GOOD))])
    assert good.exit_code == 0
    assert "mine" in good.output
    wrong = written(tmp_path, GOOD.replace("clear = 75", "clear = 85"))
    bad = CliRunner().invoke(main, ["check-rules", str(wrong)])
    assert bad.exit_code == 2
    assert f"{wrong}:7: clear" in bad.output


def test_neighbours_are_those_of_like_power() -> None:
    """Of eight GPUs of a node four work and four rest: each is compared with its kind."""
    power = np.array([500, 510, 490, 505, 80, 82, 81, 79], np.float32)
    value = np.array([60, 60, 72, 60, 35, 35, 35, np.nan], np.float32)
    found = like_neighbours(value, power, np.zeros(8, np.int32), 8)
    np.testing.assert_allclose(found[[0, 2, 4]], [-4, 12, 0], atol=1e-4)
    assert np.isnan(found[7])
