"""The rules by which Slurm's word and the prologs' are joined, each as a small story."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest

from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.topics import Allocation, Subject
from collectors.slurm.accounting import Accounted
from collectors.slurm.book import Book, Remembered
from collectors.slurm.queue import Queued
from pipeline.books.claims import claims_of, ownership

SECOND = 1_000_000
SLOTS = {number: f"0000:{0x10 + number:02x}:00.0" for number in range(4)}


@dataclasses.dataclass
class Topic:
    """What a compacted topic would keep, and a book beside it that hears of all."""

    book: Book = dataclasses.field(default_factory=lambda: Book("c"))
    kept: dict[bytes, Allocation] = dataclasses.field(default_factory=dict[bytes, Allocation])
    sent: int = 0

    def say(self, *records: Allocation) -> None:
        """Somebody publishes; the book follows."""
        for one in records:
            self.kept[one.key] = one
            self.book.take_record(one)

    def publish(self, now_s: int = 9_999) -> list[Allocation]:
        """The book sends what it has to; its own records come back to it."""
        records = self.book.changes(now_s * SECOND)
        self.sent += len(records)
        self.say(*records)
        self.book.sent(records)
        return records

    def settle(self) -> None:
        while self.book.behind:
            self.publish()

    def owners(self, node: str, number: int, to_s: int = 1_000) -> list[tuple[int, int, str]]:
        """(from, to, job) in seconds of one GPU."""
        claims = [
            claim for one in self.kept.values() for claim in claims_of(one) if claim.node == node
        ]
        slot = 0x10 + number
        pieces = ownership(claims, slot << 8, 0, to_s * SECOND)
        return [
            (piece.from_us // SECOND, piece.to_us // SECOND, getattr(piece.owner, "job", "shared"))
            for piece in pieces
            if getattr(piece.owner, "kind", "") != "unallocated"
        ]


def claim(
    job: str, number: int, from_s: float, to_s: float | None = None, node: str = "n1", kind: str = "slurm",
    **more: bool | int,
) -> Allocation:  # fmt: skip
    return Allocation(
        f"agent:{node}:{kind}", f"slurm:{job}/{SLOTS[number]}@{int(from_s)}", "lab", "", job,
        (Subject(node, (SLOTS[number],)),), int(from_s * SECOND),
        None if to_s is None else int(to_s * SECOND),
        precedence=20 if kind == "slurm" else 10, account="lab",
        shared=bool(more.get("shared")), weight=int(more.get("weight", 1)),
    )  # fmt: skip


def queued(
    job: str, start_s: int, end_s: int | None = None, nodes: Sequence[str] = ("n1",), gpus: int = 1,
    restarts: int = 0, **numbers: tuple[int, ...],
) -> Queued:  # fmt: skip
    return Queued(job, "c", start_s, end_s, restarts, "lab", "eve", tuple(nodes), gpus, numbers)


def accounted(
    job: str, start_s: int, end_s: int | None, nodes: Sequence[str] = ("n1",), gpus: int = 1,
    account: str = "lab", cluster: str = "c",
) -> Accounted:  # fmt: skip
    return Accounted(job, cluster, account, "eve", "X", start_s, end_s, tuple(nodes), gpus)


def facts(node: str = "n1", gpus: int = 4) -> NodeFacts:
    told = tuple(GpuFacts(SLOTS[number], number=number) for number in range(gpus))
    return NodeFacts(node, 0, "measured", "0", "nvml", gpus=told)


@pytest.fixture
def topic() -> Topic:
    return Topic()


def test_while_a_job_runs_its_prologs_claim_stands_alone(topic: Topic) -> None:
    topic.say(claim("7", 0, 101))
    topic.book.take_queue([queued("7", 100, n1=(0,))], 110)
    assert topic.publish() == []


def test_what_came_after_the_end_is_nobodys(topic: Topic) -> None:
    topic.say(claim("7", 0, 101))
    topic.book.take_queue([queued("7", 100)], 110)
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "7")]
    topic.say(claim("7", 0, 101, 168))
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "7")]
    (one,) = [one for one in topic.kept.values() if not one.deleted]
    assert (one.source, one.id, one.precedence) == ("slurm:c", "7@100/n1", 25)


def test_the_account_is_accountings(topic: Topic) -> None:
    topic.say(claim("7", 0, 100))
    topic.book.take_accounting([accounted("7", 100, 160, account="other")], 170)
    topic.settle()
    (one,) = [one for one in topic.kept.values() if not one.deleted]
    assert (one.tenant, one.account, one.user) == ("other", "other", "eve")


def test_a_job_that_only_its_epilog_tells_of(topic: Topic) -> None:
    topic.book.take_accounting([accounted("7", 100, 102)], 170)
    topic.settle()
    topic.say(claim("7", 2, 100, 101))
    topic.settle()
    assert topic.owners("n1", 2) == [(100, 102, "7")]


def test_a_requeued_job_has_two_runs(topic: Topic) -> None:
    topic.say(claim("7", 0, 100), claim("7", 3, 200))
    topic.book.take_accounting([accounted("7", 100, 150)], 160)
    topic.settle()
    assert topic.owners("n1", 3) == [(200, 1_000, "7")]
    topic.book.take_accounting([accounted("7", 100, 150), accounted("7", 200, 220)], 230)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 150, "7")]
    assert topic.owners("n1", 3) == [(200, 220, "7")]


def test_a_number_that_was_given_out_anew_is_another_run(topic: Topic) -> None:
    topic.say(claim("7", 0, 100, 161))
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    topic.say(claim("7", 0, 900))
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "7"), (900, 1_000, "7")]


def test_without_a_prolog_the_indices_count(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.book.take_queue([queued("7", 100, gpus=2, n1=(1, 3))], 110)
    topic.settle()
    assert topic.owners("n1", 3) == [(100, 1_000, "7")]
    assert {one.precedence for one in topic.kept.values()} == {20}
    topic.book.take_queue([queued("7", 100, 140, gpus=2)], 150)
    topic.settle()
    assert topic.owners("n1", 1) == topic.owners("n1", 3) == [(100, 140, "7")]
    assert {one.precedence for one in topic.kept.values()} == {25}


def test_facts_that_come_later_help(topic: Topic) -> None:
    topic.book.take_queue([queued("7", 100, n1=(1,))], 110)
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    assert topic.kept == {}
    assert topic.book.unplaced.left == {("7", 100): 1}
    topic.book.take_facts(facts("n1.example.org"))
    topic.settle()
    assert topic.owners("n1.example.org", 1) == [(100, 140, "7")]
    assert topic.book.unplaced.left == {}


def test_an_answer_that_comes_after_accountings_still_tells_the_indices(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    topic.book.take_queue([queued("7", 100, n1=(2,))], 139)
    topic.settle()
    assert topic.owners("n1", 2) == [(100, 140, "7")]


def test_a_dead_watchers_open_record_gives_way_to_the_next_prolog(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.book.take_queue([queued("7", 100, n1=(0,))], 110)
    topic.settle()
    topic.say(claim("8", 0, 300))
    assert topic.owners("n1", 0)[-1] == (300, 1_000, "8")


def test_whole_nodes_need_no_indices(topic: Topic) -> None:
    topic.book.take_facts(facts("n1"))
    topic.book.take_facts(facts("n2"))
    topic.book.take_accounting([accounted("7", 100, 140, ("n1", "n2"), 8)], 150)
    topic.settle()
    assert topic.owners("n2", 3) == [(100, 140, "7")]


def test_gpus_of_a_node_that_nobody_knows_are_nobodys_and_said_once(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    topic.book.take_accounting([accounted("7", 100, 140, gpus=3)], 150)
    topic.settle()
    for now_s in (150, 300, 400):
        topic.book.report(now_s)
    assert topic.kept == {}
    assert caplog.text.count("gpus_without_slots") == 1


def test_an_end_that_is_corrected(topic: Topic) -> None:
    topic.say(claim("7", 0, 100))
    topic.book.take_queue([queued("7", 100, 300)], 310)
    topic.settle()
    topic.book.take_accounting([accounted("7", 100, 250)], 320)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 250, "7")]
    topic.book.take_queue([queued("7", 100, 300)], 330)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 250, "7")]


def test_a_start_that_is_set_anew_is_the_same_run(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.book.take_queue([queued("7", 100, n1=(0,))], 110)
    topic.settle()
    topic.book.take_queue([queued("7", 130, n1=(0,))], 140)
    topic.book.take_accounting([accounted("7", 130, 160)], 170)
    topic.settle()
    assert topic.owners("n1", 0) == [(130, 160, "7")]


def test_a_run_that_everybody_has_forgotten_is_over_when_it_was_last_seen(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.book.take_queue([queued("7", 100, n1=(0,))], 150)
    topic.book.take_queue([], 160)
    topic.book.take_accounting([], 500)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 1_000, "7")]
    topic.book.take_accounting([accounted("7", 100, None)], 800)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 150, "7")]


def test_a_run_of_no_time_takes_the_claim_away(topic: Topic) -> None:
    topic.say(claim("7", 0, 100.4, 102))
    topic.book.take_accounting([accounted("7", 100, 100)], 150)
    topic.settle()
    assert topic.owners("n1", 0) == []
    assert topic.book.unplaced.left == {}


def test_those_who_share_go_on_sharing_when_one_of_them_ends(topic: Topic) -> None:
    topic.say(claim("7", 0, 100, shared=True, weight=2), claim("8", 0, 100, shared=True, weight=1))
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "shared"), (160, 1_000, "shared")]
    (one,) = [one for one in topic.kept.values() if one.source == "slurm:c"]
    assert (one.precedence, one.weight, one.shared) == (20, 2, True)


def test_what_processes_show_proves_no_allocation(topic: Topic) -> None:
    topic.say(claim("7", 0, 101), claim("7", 3, 104, kind="process"))
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "7")]
    assert topic.owners("n1", 3) == [(104, 1_000, "7")]


def test_another_cluster_and_another_node_are_not_ours(topic: Topic) -> None:
    topic.say(claim("7", 0, 101, node="x9"))
    topic.book.take_accounting([accounted("7", 100, 160, cluster="other")], 170)
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    assert topic.owners("x9", 0) == [(101, 1_000, "7")]


def test_jobs_without_gpus_are_not_remembered(topic: Topic) -> None:
    topic.book.take_accounting([accounted("7", 100, 160, gpus=0)], 170)
    topic.book.take_queue([queued("8", 100, gpus=0)], 170)
    assert len(topic.book.runs) == 0


def test_another_life_has_nothing_to_say(topic: Topic) -> None:
    topic.say(claim("7", 0, 101))
    topic.book.take_queue([queued("7", 100)], 110)
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    data = msgspec.json.encode(topic.book.remembered())
    topic.book = Book()
    topic.book.restore(msgspec.json.decode(data, type=Remembered))
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    assert topic.publish() == []


def test_a_life_without_memory_reads_it_from_the_bus(topic: Topic) -> None:
    topic.book.take_facts(facts())
    topic.say(claim("7", 0, 101))
    topic.book.take_queue([queued("7", 100), queued("8", 100, n1=(2,))], 110)
    topic.book.take_accounting([accounted("7", 100, 160)], 170)
    topic.settle()
    topic.book = Book("c")
    topic.say(*topic.kept.values())
    topic.book.take_accounting([accounted("7", 100, 160), accounted("8", 100, 180)], 190)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 160, "7")]
    assert topic.owners("n1", 2) == [(100, 180, "8")]


def test_what_will_not_change_is_forgotten(topic: Topic) -> None:
    topic.say(claim("7", 0, 101), claim("9", 1, 500))
    topic.book.take_accounting([accounted("7", 100, 160), accounted("9", 500, 600)], 700)
    topic.settle()
    topic.book.forget(300)
    left = topic.book.remembered()
    assert [run.job for run in left.runs] == ["9"]
    assert {one.job for one in (*left.claims, *left.bus)} == {"9"}
    assert topic.publish() == []
