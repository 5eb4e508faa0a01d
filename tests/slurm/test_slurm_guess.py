"""GPUs that accounting counts and nobody names: which ones are guessed, and until when."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_slurm_book import SLOTS, Topic, accounted, claim, facts, queued

from collectors.contract.facts import GpuFacts, NodeFacts
from collectors.contract.topics import PRECEDENCE
from collectors.slurm.guess import FOREVER_S, Board, Guessed, Span, Wish, guess


@pytest.fixture
def topic() -> Topic:
    made = Topic()
    made.book.take_facts(facts())
    return made


def test_the_first_free_gpu_is_taken_and_no_others(topic: Topic) -> None:
    topic.say(claim("6", 0, 90), claim("8", 1, 130))
    topic.book.take_queue([queued("6", 90), queued("8", 130)], 200)
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    assert topic.owners("n1", 0) == [(90, 1_000, "6")]
    assert topic.owners("n1", 1) == [(130, 1_000, "8")]
    assert topic.owners("n1", 2) == [(100, 140, "7")]
    assert topic.book.unplaced.guessed == {("7", 100): 1}


def test_where_none_is_free_all_the_time_one_after_the_other_is_taken(topic: Topic) -> None:
    busy = [("1", 0, 90, 120), ("2", 1, 120, 150), ("3", 2, 90, 150), ("4", 3, 90, 150)]
    topic.say(*(claim(job, gpu, start_s, end_s) for job, gpu, start_s, end_s in busy))
    rows = [accounted(job, start_s, end_s) for job, _, start_s, end_s in busy]
    topic.book.take_accounting([*rows, accounted("7", 100, 140)], 160)
    topic.settle()
    assert topic.owners("n1", 1) == [(100, 120, "7"), (120, 150, "2")]
    assert topic.owners("n1", 0) == [(90, 120, "1"), (120, 140, "7")]
    assert topic.book.unplaced.left == {}


def test_a_guess_gives_way_to_what_is_heard_later(topic: Topic) -> None:
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 140, "7")]
    topic.book.take_accounting([accounted("8", 90, 120)], 160)
    topic.say(claim("8", 0, 90, 121))
    topic.settle()
    assert topic.owners("n1", 0) == [(90, 120, "8")]
    assert topic.owners("n1", 1) == [(100, 140, "7")]
    topic.say(claim("7", 3, 100, 141))
    topic.settle()
    assert topic.owners("n1", 1) == []
    assert topic.owners("n1", 3) == [(100, 140, "7")]
    assert topic.book.unplaced.guessed == {}


def test_a_guess_stays_when_what_it_avoided_is_over_and_forgotten(topic: Topic) -> None:
    topic.say(claim("6", 0, 90, 110))
    topic.book.take_accounting([accounted("6", 90, 110), accounted("7", 100, 900)], 950)
    topic.settle()
    assert topic.owners("n1", 1) == [(100, 900, "7")]
    topic.book.forget(500)
    topic.book.take_accounting([accounted("7", 100, 890)], 960)
    topic.settle()
    assert topic.owners("n1", 0) == [(90, 110, "6")]
    assert topic.owners("n1", 1) == [(100, 890, "7")]


def test_gpus_on_which_its_processes_were_seen_go_first(topic: Topic) -> None:
    topic.say(claim("7", 2, 110, 145, kind="process"))
    topic.book.take_accounting([accounted("7", 100, 140, gpus=2)], 150)
    topic.settle()
    assert topic.owners("n1", 2) == topic.owners("n1", 0) == [(100, 140, "7")]
    assert topic.owners("n1", 1) == topic.owners("n1", 3) == []


def test_who_is_on_a_gpu_without_leave_is_not_disturbed(topic: Topic) -> None:
    topic.say(claim("5", 0, 50, kind="process"))
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    assert topic.owners("n1", 0) == [(50, 1_000, "5")]
    assert topic.owners("n1", 1) == [(100, 140, "7")]


def test_the_node_of_which_nothing_is_known_goes_first(topic: Topic) -> None:
    topic.book.take_facts(facts("n2"))
    topic.say(claim("7", 3, 100))
    topic.book.take_accounting([accounted("7", 100, 140, ("n1", "n2"), 3)], 150)
    topic.settle()
    assert [topic.owners("n1", number) for number in range(4)] == [[], [], [], [(100, 140, "7")]]
    assert topic.owners("n2", 0) == topic.owners("n2", 1) == [(100, 140, "7")]


def test_a_run_that_goes_on_is_guessed_when_its_agents_had_their_time(topic: Topic) -> None:
    topic.book.take_queue([queued("7", 100)], 110)
    topic.publish(now_s=110)
    assert topic.kept == {}
    topic.book.take_accounting([accounted("7", 100, None)], 300)
    topic.publish(now_s=300)
    assert topic.owners("n1", 0) == [(100, 1_000, "7")]
    topic.book.take_accounting([accounted("7", 100, 350)], 360)
    topic.settle()
    assert topic.owners("n1", 0) == [(100, 350, "7")]


def test_a_start_that_is_set_anew_takes_the_guess_with_it(topic: Topic) -> None:
    topic.book.take_queue([queued("7", 100)], 300)
    topic.publish(now_s=300)
    topic.book.take_queue([queued("7", 130)], 310)
    topic.book.take_accounting([accounted("7", 130, 320)], 330)
    topic.settle()
    assert topic.owners("n1", 0) == [(130, 320, "7")]


def test_a_life_without_memory_leaves_guesses_as_they_are(topic: Topic) -> None:
    topic.say(claim("6", 0, 90, 110))
    told = [accounted("6", 90, 110), accounted("7", 100, 140), accounted("8", 120, 160)]
    topic.book.take_accounting(told, 170)
    topic.settle()
    before, topic.book, topic.sent = dict(topic.kept), type(topic.book)("c"), 0
    topic.say(*before.values())
    topic.book.take_facts(facts())
    topic.settle()
    topic.book.take_accounting(told, 180)
    topic.settle()
    assert (topic.kept, topic.sent) == (before, 0)


def test_of_a_gpu_in_instances_nothing_is_guessed(topic: Topic) -> None:
    whole = [GpuFacts(SLOTS[number], number=number) for number in range(2)]
    part = GpuFacts(f"{SLOTS[0]}/1", parent=SLOTS[0])
    topic.book.take_facts(NodeFacts("n1", 0, "measured", "0", "nvml", gpus=(*whole, part)))
    topic.book.take_accounting([accounted("7", 100, 140, gpus=1)], 150)
    topic.settle()
    assert topic.kept == {}
    assert topic.book.unplaced.left == {("7", 100): 1}


def test_guesses_are_said_once_and_have_a_precedence_of_their_own(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    topic.book.take_accounting([accounted("7", 100, 140)], 150)
    topic.settle()
    for now_s in (150, 300, 400):
        topic.book.report(now_s)
    assert caplog.text.count("gpus_guessed") == 1
    (one,) = topic.kept.values()
    assert (one.precedence, one.id) == (PRECEDENCE["guess"], f"7@100/n1/{SLOTS[0]}@100")


NODES = ("n1", "n2")


@st.composite
def spans(draw: st.DrawFn) -> Span:
    from_s = draw(st.integers(0, 20))
    return Span(draw(st.sampled_from("abc")), from_s, from_s + draw(st.integers(1, 20)))


@st.composite
def wishes_of(draw: st.DrawFn) -> list[Wish]:
    wishes: list[Wish] = []
    for job in range(draw(st.integers(0, 4))):
        span = draw(spans())
        gpus = draw(st.integers(1, 3))
        wishes.append(Wish(str(job), span.from_s, span.to_s, gpus, NODES))
    return wishes


def seconds_of(found: dict[tuple[str, int], Guessed]) -> Counter[tuple[str, str, int]]:
    """How often each (node, slot, second) was given."""
    return Counter(
        (node, span.slot, second)
        for one in found.values()
        for node, some in one.spans.items()
        for span in some
        for second in range(span.from_s, span.to_s)
    )


@given(st.lists(st.tuples(st.sampled_from(NODES), spans()), max_size=8), wishes_of())
def test_no_second_is_given_twice_or_taken_from_anybody(
    held: list[tuple[str, Span]], wishes: list[Wish]
) -> None:
    units = {node: tuple("abc") for node in NODES}
    found = guess(wishes, Board(units, held), {})
    given_out = seconds_of(found)
    taken = {(node, one.slot, second) for node, one in held for second in range(*one[1:])}
    assert not given_out.keys() & taken
    assert set(given_out.values()) <= {1}
    for wish in wishes:
        one = found[wish.job, wish.from_s]
        spent = sum(span.to_s - span.from_s for some in one.spans.values() for span in some)
        whole = wish.gpus * (wish.to_s - wish.from_s)
        assert (spent == whole) if one.unplaced == 0 else (spent < whole)
    # What was said stands, whatever else would now be chosen.
    if all(one.unplaced == 0 for one in found.values()):
        again = guess(wishes, Board(units, held), {key: one.spans for key, one in found.items()})
        assert seconds_of(again) == given_out


def test_an_open_end() -> None:
    board = Board({"n1": ("a", "b")}, [("n1", Span("a", 10, FOREVER_S))])
    found = guess([Wish("1", 5, FOREVER_S, 1, ("n1",))], board, {})
    assert found["1", 5].spans == {"n1": [Span("b", 5, FOREVER_S)]}
