"""Which second a record counts for: the same whatever the fetches, and each second as soon as nothing
of it can come from any node that is heard."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from alert_tools import T0, Life, Log, S
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.contract.identity import Slot, pack_slot
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.topics import EVENTS, GPU, Event
from collectors.contract.wire import encode
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.rules import Rule
from pipeline.watch.alerts.rules_file import load_rules

NODES, SECONDS, PARTITIONS = 6, 130, 3
SLOT = pack_slot(Slot(0, 1, 0, 0))
SITE = Inventory(
    "s", "Site", "UTC", "fp16", "dense", "boost",
    tuple(InstalledNode(f"n{at}", "H", "r", "H800-SXM", (SLOT,), 0.99) for at in range(NODES)),
)  # fmt: skip
EVERY_VALUE = """
[[rule]]
name = "value"
scope = "gpu"
when = "power_w"
above = 500
family = "power"
runbook = "power_brake"
summary = "it takes more than 500 W"
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Rule]:
    """One that shows each value, one that shows silence, one that shows each event."""
    file: Path = tmp_path_factory.mktemp("rules") / "rules.toml"
    file.write_text(EVERY_VALUE)
    wanted = ("value", "node_silent", "xid_critical")
    return [rule for rule in load_rules(file) if rule.name in wanted]


def record(node: str, run: int, sequence: int, time_us: int, power_w: float) -> bytes:
    values = {"power_w": [power_w]}
    made = NodeRecord(
        node, Origin.MEASURED, run << 20, sequence, time_us, 0, [SLOT], [1], values
    )  # fmt: skip
    return encode(made)


def node_into(log: Log, name: str, rng: random.Random) -> None:
    """A node with an interval, a clock, pauses, new runs and delays of its own."""
    interval_us = int(rng.choice((0.5, 1.0, 1.0, 1.3, 2.0, 5.0)) * S)
    clock_us = int(rng.choice((0, 0, -30, 7)) * S)
    usual_us, slow = rng.randrange(5_000, 300_000), rng.choice((0.0, 0.0, 0.0, 0.05, 0.4))
    at_us, run, sequence, paused = rng.randrange(S), 1_000, 0, False
    while at_us < SECONDS * S:
        delay_us = usual_us + rng.randrange(20_000)
        if paused or rng.random() < slow:
            delay_us += rng.randrange(3 * S)
        value = record(name, run, sequence, T0 + at_us + clock_us, rng.choice((400.0, 600.0)))
        log.put(GPU, name.encode(), value, T0 + at_us + delay_us)
        if rng.random() < 0.02:
            log.put(GPU, name.encode(), value, T0 + at_us + delay_us + rng.randrange(3 * S))
        sequence += 1
        at_us += interval_us + rng.randrange(-20_000, 20_000)
        paused = rng.random() < 0.03
        if paused:
            at_us += rng.randrange(15 * S)
            if rng.random() < 0.3:
                run, sequence = run + rng.choice((-3, 3)), 0


def random_log(seed: int) -> Log:
    rng, log = random.Random(seed), Log(PARTITIONS)
    for at in range(NODES):
        node_into(log, f"n{at}", rng)
    for _ in range(10):
        node, at_us = f"n{rng.randrange(NODES)}", T0 + rng.randrange(SECONDS * S)
        event = Event(at_us, node, "xid", code=79)
        log.put(EVENTS, node.encode(), msgspec.json.encode(event), at_us + rng.randrange(S))
    log.settle()
    return log


def life_of(log: Log, rules: Sequence[Rule], seed: int) -> Life:
    life = Life(log, SITE, AlertOptions(rules))
    life.read(random.Random(seed))
    life.finish(10)
    return life


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_fetches_change_no_second(rules: Sequence[Rule], seed: int) -> None:
    log = random_log(seed)
    first, second = life_of(log, rules, seed), life_of(log, rules, seed + 1)
    assert len(first.alerts) > 50
    assert first.alerts == second.alerts
    assert first.follow.out_of_step == second.follow.out_of_step == 0


def steady(silent: Sequence[str] = (), interval_us: int = S) -> Log:
    """Nodes that speak in turns; some fall silent after a minute."""
    log = Log(PARTITIONS)
    for at in range(NODES):
        name, phase_us = f"n{at}", at * interval_us // NODES
        for number in range(SECONDS * S // interval_us):
            time_us = T0 + number * interval_us + phase_us
            if name not in silent or time_us < T0 + 60 * S:
                value = record(name, 1_000, number, time_us, 400.0)
                log.put(GPU, name.encode(), value, time_us + 20_000)
    log.settle()
    return log


def one_by_one(log: Log, rules: Sequence[Rule]) -> tuple[Life, list[int]]:
    """A life that reads every record as it comes, and how long after its end each second was
    evaluated, in bus time."""
    life = Life(log, SITE, AlertOptions(rules))
    rows = sorted(
        (bus_us, partition, at)
        for partition, records in log.records.items()
        for at, (bus_us, _, _) in enumerate(records)
    )
    waits_us: list[int] = []
    for bus_us, partition, at in rows:
        life.clock.now_us = bus_us
        life.follow.take_in([life.log.chunk(partition, at, at + 1)], bus_us)
        before = life.follow.done_s
        life.evaluate(bus_us)
        if before:
            done_s = life.follow.done_s
            waits_us += [bus_us - second * S for second in range(before + 1, done_s + 1)]
    life.finish(10)
    return life, waits_us


def test_a_second_is_evaluated_when_no_node_is_due_in_it(rules: Sequence[Rule]) -> None:
    """How often nodes speak is known after a minute."""
    _, found = one_by_one(steady(), rules)
    assert len(found) > SECONDS - 10
    assert max(found) < 1_300_000
    assert max(found[70:]) < 500_000


def test_a_silent_node_is_waited_for_two_seconds_and_no_more(rules: Sequence[Rule]) -> None:
    _, found = one_by_one(steady(silent=("n3",)), rules)
    assert sorted(found)[-3] < 1_300_000
    assert max(found) < 2_300_000
    assert max(found[70:]) < 500_000


def test_a_node_that_suddenly_speaks_twice_as_often_holds_nobody_up(rules: Sequence[Rule]) -> None:
    log = steady()
    for number in range(100, 110):
        time_us = T0 + number * S + 450_000
        log.put(GPU, b"n0", record("n0", 1_000, 1_000 + number, time_us, 600.0), time_us + 20_000)
    log.settle()
    live, found = one_by_one(log, rules)
    assert max(found[70:]) < 500_000
    (fired,) = [one for one in live.alerts if one.rule == "value" and one.state == "firing"]
    assert fired.since_us == T0 + 101 * S
    assert live.follow.out_of_step == 0


def test_nodes_that_speak_seldom_hold_nobody_up(rules: Sequence[Rule]) -> None:
    _, found = one_by_one(steady(interval_us=5 * S), rules)
    assert max(found) < 2_900_000


@pytest.mark.parametrize("delay_ms", range(100, 2_900, 400))
def test_what_a_node_sends_after_a_silence_is_out_of_step_with_nobody(
    rules: Sequence[Rule], delay_ms: int
) -> None:
    """Nobody waited for it; it counts for the second in which it came, whoever reads when."""
    log = steady(silent=("n3",))
    for number in range(100, 104):
        time_us = T0 + number * S + 850_000
        value = record("n3", 1_000, number, time_us, 600.0)
        log.put(GPU, b"n3", value, time_us + delay_ms * 1_000 - (number - 100) * 30_000)
    log.settle()
    live, _ = one_by_one(log, rules)
    again = life_of(log, rules, seed=1)
    assert ("value" in {alert.rule for alert in live.alerts}) == (delay_ms < 2_300)
    assert live.alerts == again.alerts
    assert live.follow.out_of_step == again.follow.out_of_step == 0
