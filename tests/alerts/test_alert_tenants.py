"""Whom alerts name and whom they concern: accounts by the tenants file, a program's own faults for
its tenant and never for on-call."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from alert_tools import T0, Life, Log, S
from scenario_tools import Plain, site

from collectors.contract.alerts import Alert
from collectors.contract.tenants import NO_TENANTS, NameRule, Tenant, Tenants
from collectors.contract.topics import ALLOC, Allocation, Subject
from pipeline.notify.targets import WebhookTarget
from pipeline.watch.alerts.follow import AlertOptions
from pipeline.watch.alerts.rules_file import load_rules
from pipeline.watch.incidents import Incidents

LOST: dict[str, Any] = {
    "minutes": 6,
    "do": [
        {"at": 40, "to": 300, "where": "r1n1/2",
         "rate": {"down_us": 1_000_000, "observed_us": 0, "active_us": 0}},
        {"at": 200, "to": 260, "where": "r1n2/1",
         "rate": {"down_us": 1_000_000, "observed_us": 0, "active_us": 0}},
    ],
}  # fmt: skip
CHANGED_S = 130
PROGRAM: dict[str, Any] = {
    "minutes": 2,
    "event": [
        {"at": 40, "where": "r1n1/2", "kind": "xid", "code": 31},
        {"at": 50, "where": "r2n1/1", "kind": "xid", "code": 79},
    ],
    "holder": [{"where": "r1n1", "tenant": "acme"}, {"where": "r2n1", "tenant": "bolt"}],
}
FILE = Tenants(
    (Tenant("physics", "Physics"),),
    (NameRule("account", "phys", "", "physics", "", 0, None, 1),),
)


def by_account() -> Log:
    """Two GPUs lost while an account's job holds all of the rack."""
    log = Plain(LOST).play()
    held = tuple(Subject(node.name) for node in site().nodes)
    claim = Allocation("slurm:c", "7", "", "", "7", held, T0, account="phys")
    log.put(ALLOC, claim.key, msgspec.json.encode(claim), T0)
    log.settle()
    return log


def life(log: Log, first: Tenants, then: Tenants | None = None) -> Life:
    """Reads a log; the tenants file is another one from CHANGED_S on."""
    seconds = [0]
    options = AlertOptions(
        load_rules(),
        tenants=lambda: first if then is None or seconds[0] < CHANGED_S else then,
        folding=lambda saved: Incidents.restored(saved) if saved else Incidents(),
    )
    made = Life(log, site(), options)
    made.clock.now_us = T0
    for chunks in log.fetches(random.Random(1)):
        made.follow.take_in(chunks, made.clock.monotonic_us())
    for second in range(LOST["minutes"] * 60):
        seconds[0] = second
        made.evaluate(T0 + second * S)
    return made


def moves(alerts: list[Alert]) -> list[tuple[str, str, str, int]]:
    """Transitions without names."""
    return [(one.fingerprint, one.state, one.severity, one.at_us) for one in alerts]


def fired(alerts: list[Alert]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tenants and jobs of what fired, by place."""
    return {one.subject.name: (one.tenants, one.jobs) for one in alerts if one.state == "firing"}


def test_an_account_is_named_by_the_tenants_file() -> None:
    plain, named = life(by_account(), NO_TENANTS), life(by_account(), FILE)
    assert moves(plain.alerts) == moves(named.alerts)
    assert fired(plain.alerts)["r1n1·2"][0] == ()
    assert fired(named.alerts)["r1n1·2"] == (("physics",), ("7",))


def test_a_tenants_file_that_changes_moves_no_alert() -> None:
    before, changed = life(by_account(), NO_TENANTS), life(by_account(), NO_TENANTS, FILE)
    assert moves(before.alerts) == moves(changed.alerts)
    assert fired(changed.alerts)["r1n1·2"][0] == ()
    assert fired(changed.alerts)["r1n2·1"][0] == ("physics",)


def test_a_programs_fault_is_its_tenants_and_not_on_calls() -> None:
    told = life(Plain(PROGRAM).play(), NO_TENANTS).incidents
    on_call = WebhookTarget(name="on-call", severity="info")
    acme = WebhookTarget(name="acme", severity="info", concerns=("tenant",), tenants=("acme",))
    bolt = WebhookTarget(name="bolt", severity="info", concerns=("tenant",), tenants=("bolt",))

    def heard(by: WebhookTarget) -> set[str]:
        return {one.subject.name for one in told if one.notice and by.wants(one)}

    assert heard(on_call) == {"r2n1·1"}
    assert heard(acme) == {"r1n1·2"}
    assert heard(bolt) == set()


def turn_of_jobs(at_us: int) -> Log:
    """A program fails and a node goes dark, both as their job ends, and on the first the next one
    begins at once; on a third node a job ended minutes before a GPU is lost."""
    scenario: dict[str, Any] = {
        "minutes": 4,
        "do": [
            {"at": 60, "where": "r2n1", "silent": True},
            {"at": 200, "where": "r2n2/1",
             "rate": {"down_us": 1_000_000, "observed_us": 0, "active_us": 0}},
        ],
        "event": [{"at": 60, "told_at": 62, "where": "r1n1/2", "kind": "xid", "code": 31}],
    }  # fmt: skip
    log = Plain(scenario).play()
    for node, tenant, start_us, end_us in (
        ("r1n1", "acme", T0, at_us), ("r1n1", "next", at_us + S, None),
        ("r2n1", "bolt", T0, at_us), ("r2n2", "gone", T0, at_us),
    ):  # fmt: skip
        claim = Allocation(
            "test", f"{node}-{tenant}", tenant, "", f"job of {tenant}", (Subject(node),), start_us,
            end_us,
        )  # fmt: skip
        log.put(ALLOC, claim.key, msgspec.json.encode(claim), T0 if end_us is None else at_us)
    log.settle()
    return log


def test_a_job_that_a_fault_ended_is_named() -> None:
    named = fired(life(turn_of_jobs(T0 + 60 * S), NO_TENANTS).alerts)
    assert named["r1n1·2"] == (("acme",), ("job of acme",))
    assert named["r2n1"] == (("bolt",), ("job of bolt",))
    assert named["r2n2·1"] == ((), ())


def test_rules_about_tenants_work_call_nobody_else() -> None:
    tenants = {rule.name for rule in load_rules() if rule.concerns == "tenant"}
    assert tenants == {"xid_of_program", "allocated_and_idle", "gpu_hung"}
    assert {rule.family for rule in load_rules() if rule.concerns == "tenant"} == {
        "program",
        "waste",
    }
    assert all(
        rule.concerns == "tenant" or rule.steps[0].severity == "info"
        for rule in load_rules()
        if rule.family in ("program", "waste")
    )
