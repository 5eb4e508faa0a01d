"""Whatever comes when, and whoever dies meanwhile: in the end the ledger has what Slurm has."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from test_slurm_book import Topic, accounted, claim, facts, queued

from collectors.slurm.accounting import Accounted
from collectors.slurm.book import Book, Remembered
from collectors.slurm.queue import Queued

NODES = ("n1", "n2")
GPUS = 2
END_S = 2_000


class Planned(NamedTuple):
    """One run on one GPU, and how it is heard of."""

    job: str
    node: str
    gpu: int
    start_s: int
    end_s: int
    claimed_s: float
    """When its prolog ran."""
    told_s: tuple[int, int] | None
    """When the agent's claim and its end reach the bus; None where there is no prolog."""


@st.composite
def plans(draw: st.DrawFn) -> list[Planned]:
    """Runs that follow each other on four GPUs; a job comes again now and then."""
    runs: list[Planned] = []
    number = 0
    for node in NODES:
        for gpu in range(GPUS):
            time_s = draw(st.integers(0, 50))
            for _ in range(draw(st.integers(0, 4))):
                start_s = time_s + draw(st.integers(0, 60))
                end_s = start_s + draw(st.sampled_from([0, 1, 2, 30, 100]))
                # One GPU's jobs come again on it alone, so that no job has two runs at once.
                number += draw(st.sampled_from([1, 1, 1, 0])) or not runs or runs[-1].gpu != gpu
                late = sorted(draw(st.tuples(st.integers(0, 60), st.integers(0, 60))))
                told = (start_s + late[0], end_s + late[1]) if draw(st.integers(0, 3)) else None
                claimed_s = min(start_s + draw(st.sampled_from([0, 0.5, 1])), end_s + 0.5)
                job = f"{node[1]}{gpu}{number}"
                runs.append(Planned(job, node, gpu, start_s, end_s, claimed_s, told))
                time_s = end_s + draw(st.sampled_from([2, 9]))
    return runs


def seen(plan: list[Planned], now_s: int) -> list[Queued]:
    """What slurmctld would say."""
    rows: list[Queued] = []
    for one in plan:
        if one.start_s <= now_s < one.end_s:
            row = queued(one.job, one.start_s, None, (one.node,), restarts=one.start_s)
            rows.append(msgspec.structs.replace(row, numbers={one.node: (one.gpu,)}))
        elif one.end_s <= now_s < one.end_s + 300:
            rows.append(queued(one.job, one.start_s, one.end_s, (one.node,), restarts=one.start_s))
    return rows


def known(plan: list[Planned], now_s: int, behind_s: int) -> list[Accounted]:
    """What slurmdbd would say, which hears of ends late."""
    return [
        accounted(
            one.job, one.start_s, one.end_s if one.end_s <= now_s - behind_s else None, (one.node,)
        )
        for one in plan
        if one.start_s <= now_s
    ]


@dataclasses.dataclass
class Play:
    """The plan as it is heard of, second by second, by a topic and a book that may die."""

    plan: list[Planned]
    topic: Topic = dataclasses.field(default_factory=Topic)
    polled: set[tuple[str, int]] = dataclasses.field(default_factory=set[tuple[str, int]])

    saved: bytes = b""
    """The file of the last life, or of this one so far."""
    polled_then: set[tuple[str, int]] = dataclasses.field(default_factory=set[tuple[str, int]])

    def __post_init__(self) -> None:
        for node in NODES:
            self.topic.book.take_facts(facts(node, GPUS))

    def agents(self, before_s: int, now_s: int) -> None:
        for one in self.plan:
            if one.told_s is None:
                continue
            begun = claim(one.job, one.gpu, one.claimed_s, node=one.node)
            first_s, last_s = one.told_s
            if before_s < first_s <= now_s:
                self.topic.say(begun)
            if before_s < last_s <= now_s:
                # The epilog, and the look that saw it, are later than the end.
                to_us = max(begun.from_us, (one.end_s + 1) * 1_000_000)
                self.topic.say(msgspec.structs.replace(begun, to_us=to_us))

    def poll(self, now_s: int) -> None:
        rows = seen(self.plan, now_s)
        self.polled |= {(row.job, row.start_s) for row in rows if row.end_s is None}
        self.topic.book.take_queue(rows, now_s)

    def save(self) -> None:
        self.saved = msgspec.json.encode(self.topic.book.remembered())
        self.polled_then = set(self.polled)

    def die(self) -> None:
        """A kill, and the next life, which has the file as it was and reads the bus.

        What only this life had seen of a run without a prolog is lost with it.
        """
        self.topic.book = Book("c")
        if self.saved:
            self.topic.book.restore(msgspec.json.decode(self.saved, type=Remembered))
        self.polled = set(self.polled_then)
        for node in NODES:
            self.topic.book.take_facts(facts(node, GPUS))
        for one in list(self.topic.kept.values()):
            self.topic.book.take_record(one)

    def check(self, node: str) -> None:
        """Every second of every run is there once, and on its GPU where anybody told which."""
        held = [
            (gpu, second, job)
            for gpu in range(GPUS)
            for from_s, to_s, job in self.topic.owners(node, gpu, END_S)
            for second in range(from_s, to_s)
        ]
        mine = [one for one in self.plan if one.node == node]
        expected = [(one.gpu, second, one.job) for one in mine for second in seconds(one)]
        assert Counter(cell[1:] for cell in held) == Counter(cell[1:] for cell in expected)
        told = [one for one in mine if one.told_s or (one.job, one.start_s) in self.polled]
        assert {(one.gpu, second, one.job) for one in told for second in seconds(one)} <= {*held}


def seconds(one: Planned) -> range:
    return range(one.start_s, one.end_s)


STEPS = st.lists(
    st.tuples(
        st.integers(1, 200),
        st.sampled_from(
            ["poll", "poll", "account", "account", "retell", "publish", "publish", "die"]
        ),
        st.integers(0, 100),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(plans(), STEPS)
def test_the_ledger_has_what_slurm_has(
    plan: list[Planned], steps: list[tuple[int, str, int]]
) -> None:
    play = Play(plan)
    now_s = -1
    for step_s, what, behind_s in steps:
        play.agents(now_s, now_s + step_s)
        now_s += step_s
        match what:
            case "poll":
                play.poll(now_s)
            case "account":
                play.topic.book.take_accounting(known(plan, now_s, behind_s), now_s)
                play.topic.book.forget(-END_S)
            case "retell":
                play.agents(now_s - 600, now_s)
            case "publish":
                play.topic.publish()
                play.save()
            case _:
                play.die()
    play.agents(now_s, END_S)
    play.topic.book.take_accounting(known(plan, END_S, 0), END_S)
    play.topic.settle()
    play.topic.book.forget(-END_S)
    play.agents(END_S - 1_000, END_S)
    play.topic.settle()
    for node in NODES:
        play.check(node)
    # Without a memory the bus and slurmdbd say all of it again, and nothing is new.
    sent = play.topic.sent
    play.saved = b""
    play.die()
    play.topic.book.take_accounting(known(plan, END_S, 0), END_S)
    play.topic.settle()
    assert play.topic.sent == sent
