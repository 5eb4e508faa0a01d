"""A rack that loses part of its coolant's flow is one incident, told once and ended once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from alert_tools import T0, Life, S, simulated
from test_alerts_log import options

AT_S, LASTS_S = 900, 240
FAULT = f"""
[[event]]
fault = "rack_pump_failure"
at = "{AT_S}s"
for = "{LASTS_S}s"
rack = "a01"
strength = 0.7
"""


@pytest.mark.long
def test_a_rack_without_flow_is_one_incident(tmp_path: Path) -> None:
    scenario = tmp_path / "pump.toml"
    scenario.write_text(FAULT)
    life = Life(*simulated(21.5, scenario=scenario), options())
    life.read(random.Random(3))
    life.finish()
    thermal = [one for one in life.incidents if one.family == "thermal"]
    assert {one.id for one in thermal} == {thermal[0].id}
    # Told of once it is known how wide it is, and once more when it is over.
    told = [one for one in thermal if one.notice]
    over = told[-1]
    opened = next(one for one in told if one.cause == "rack_cooling")
    assert over.notice <= 4
    assert opened.subject.name == "Hall A/a01"
    assert opened.severity == "critical"
    assert opened.runbook == "rack_cooling"
    assert opened.tenants
    assert 0 <= (opened.changed_us - T0) / S - AT_S <= 30
    assert over.state == "resolved"
    assert not [one for one in life.alerts if one.rule == "throttled_hw_thermal"]
