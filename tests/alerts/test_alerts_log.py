"""Law 7: the same log gives the same transitions, whatever the fetches, deaths and clocks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from alert_tools import T0, Life, Log, S, simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.alerts import Alert, Incident
from collectors.contract.inventory import Inventory
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.publish import Published
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.alerts.thermal import ThermalPhysics
from pipeline.watch.incidents import Incidents

WRONG = """
[[event]]
fault = "node_dark"
at = "70s"
for = "60s"
node = "a01n02"

[[event]]
fault = "power_brake"
at = "100s"
for = "40s"
rack = "b01"

[[event]]
fault = "gpu_off_bus"
at = "150s"
for = "40s"
gpu = "a01n03/5"

[[event]]
fault = "clock_skew"
at = "60s"
for = "3m"
node = "a01n04"
strength = -20

[[event]]
fault = "clock_drift"
at = "10s"
for = "4m"
node = "b01n03"
strength = 400

[[event]]
fault = "reordered"
at = "30s"
for = "4m"
site = true

[[event]]
fault = "duplicated"
at = "30s"
for = "4m"
site = true

[[event]]
fault = "late"
at = "200s"
for = "40s"
node = "b01n01"
strength = 30
"""


def options() -> AlertOptions:
    return AlertOptions(
        load_rules(), physics=ThermalPhysics,
        folding=lambda saved: Incidents.restored(saved) if saved else Incidents(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Inventory]:
    """Five minutes of a site where all sorts of things go wrong."""
    scenario: Path = tmp_path_factory.mktemp("scenario") / "wrong.toml"
    scenario.write_text(WRONG)
    return simulated(5, scenario=scenario)


@pytest.fixture(scope="module")
def undisturbed(wrong: tuple[Log, Inventory]) -> Life:
    life = Life(*wrong, options())
    life.read(random.Random(0))
    life.finish(30)
    return life


def told(life: Life) -> set[tuple[str, str]]:
    return {(alert.rule, alert.subject.name) for alert in life.alerts if alert.state == "firing"}


def test_what_went_wrong_is_told(undisturbed: Life) -> None:
    found = told(undisturbed)
    assert {
        ("node_silent", "a01n02"), ("power_brake", "b01n02"), ("xid_critical", "a01n03·5"),
        ("gpu_down", "a01n03·5"), ("clock_wrong", "a01n04"),
    } <= found  # fmt: skip
    assert not {subject for rule, subject in found if rule == "node_silent"} - {"a01n02", "b01n01"}


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_fetches_change_nothing(wrong: tuple[Log, Inventory], undisturbed: Life, seed: int) -> None:
    life = Life(*wrong, options())
    life.read(random.Random(seed))
    life.finish(30)
    assert life.alerts == undisturbed.alerts
    assert life.incidents == undisturbed.incidents


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_deaths_change_nothing(wrong: tuple[Log, Inventory], undisturbed: Life, seed: int) -> None:
    """Every life ends at a random fetch; the next begins with the last snapshot, and what is on
    the bus already is not sent again."""
    rng = random.Random(seed)
    published, sent, saved = Published(), list[Alert | Incident](), None
    for _ in range(6):
        life = Life(*wrong, options(), saved)
        life.read(rng, most=rng.randint(1, 60))
        sent += published.new(life.alerts, life.incidents)
        saved = life.saved[-1] if life.saved else saved
    life = Life(*wrong, options(), saved)
    life.read(rng)
    life.finish(30)
    sent += published.new(life.alerts, life.incidents)
    alerts = [one for one in sent if isinstance(one, Alert)]
    assert alerts == undisturbed.alerts
    incidents = {one.id: one for one in sent if not isinstance(one, Alert)}
    assert incidents == {one.id: one for one in undisturbed.incidents}


def test_what_comes_late_never_pages(wrong: tuple[Log, Inventory]) -> None:
    """A node's record of a throttle that comes three seconds late is history."""
    log, inventory = wrong
    late = Log()
    for partition, rows in log.records.items():
        for bus_us, key, value in rows:
            delayed = key == b"b01n02" and bus_us > T0 + 95 * S
            late.records[partition].append((bus_us + (3 * S if delayed else 0), key, value))
    late.settle()
    life = Life(late, inventory, options())
    life.read(random.Random(1))
    life.finish()
    assert ("power_brake", "b01n02") not in told(life)
    assert ("power_brake", "b01n01") in told(life)
