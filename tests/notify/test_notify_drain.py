"""The shipped hook drains a node, and no more than that: run as the notifier runs it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from notify_tools import GPU, incident

from collectors.contract.alerts import Member, Subject
from pipeline.notify.errors import TargetRefusedError, TargetUnavailableError
from pipeline.notify.notice import Notice
from pipeline.notify.senders import CommandSender
from pipeline.notify.targets import CommandTarget

HOOK = Path(__file__).parents[2] / "deploy" / "hooks" / "drain_node.py"
RACK = Subject("rack", "A/r1", "A", "r1")
OTHER = Member("f2", "xid_79", "critical", Subject("gpu", "n2/0", "A", "r1", "n2", "x"), 10)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which stand-ins for scontrol and kubectl write what they are asked for."""
    said = tmp_path / "said"
    said.touch()
    for name in ("scontrol", "kubectl"):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {said}\n')
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return said


def told(notice: Notice, *argv: str) -> None:
    target = CommandTarget(name="drain", argv=(sys.executable, str(HOOK), *argv), timeout_s=60)
    asyncio.run(CommandSender(target).send(notice))


def test_a_node_is_drained_or_cordoned(ran: Path) -> None:
    told(Notice(incident(), "opened"), "slurm")
    told(Notice(incident(), "worse"), "kubernetes")
    drained, cordoned = ran.read_text().splitlines()
    reason = "Reason=petawatch i1: N1/0: off the bus"
    assert drained == f"scontrol update NodeName=n1 State=DRAIN {reason}"
    assert cordoned == "kubectl cordon n1"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("test", {}),
        ("resolved", {}),
        ("opened", {"origin": "simulated"}),
        ("opened", {"origin": "replayed"}),
        ("opened", {"subject": RACK, "members": ()}),
        ("opened", {"subject": RACK, "members": (*incident().members, OTHER)}),
        ("opened", {"subject": Subject("node", "-h", "A", "r1", "--help"), "members": ()}),
    ],
)
def test_it_leaves_alone_what_is_not_one_real_node(
    ran: Path, kind: str, changes: dict[str, Any]
) -> None:
    told(Notice(incident(**changes), kind), "slurm")
    assert ran.read_text() == ""


def test_several_where_that_is_allowed(ran: Path) -> None:
    both = incident(subject=RACK, members=(*incident(subject=GPU).members, OTHER))
    told(Notice(both, "opened"), "slurm", "--most", "2")
    assert [line.split()[2] for line in ran.read_text().splitlines()] == [
        "NodeName=n1",
        "NodeName=n2",
    ]


def test_a_tool_that_fails_is_tried_again(ran: Path) -> None:
    (ran.parent / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises((TargetUnavailableError, TargetRefusedError)):
        told(Notice(incident(), "opened"), "slurm")
