"""Claims from labels: over changes, silences and kill -9."""

from __future__ import annotations

from pathlib import Path

from collectors.contract.identity import parse_slot
from collectors.contract.topics import PRECEDENCE, Allocation
from collectors.scrape.claims import KEPT_US, Claims
from collectors.scrape.series import Holder

A, B = parse_slot("0000:10:00.0"), parse_slot("0000:11:00.0")
POD, JOB = Holder("kubernetes", "p1", "ml"), Holder("slurm", "42")
S = 1_000_000
T0 = 1_700_000_000 * S


def spans(allocations: list[Allocation]) -> list[tuple[str, str, int, int | None]]:
    return [
        (one.job, one.subjects[0].slots[0], one.from_us - T0,
         None if one.to_us is None else one.to_us - T0)
        for one in allocations
    ]  # fmt: skip


def test_a_holder_from_its_first_page_to_the_first_without_it() -> None:
    claims = Claims()
    [begun] = claims.update("n1", {A: {POD}}, T0)
    assert (begun.source, begun.namespace, begun.job) == ("scrape:n1:kubernetes", "ml", "p1")
    assert (begun.tenant, begun.precedence) == ("", PRECEDENCE["scheduler"])
    assert begun.subjects[0].node == "n1"
    assert claims.update("n1", {A: {POD}}, T0 + 15 * S) == []
    [ended] = claims.update("n1", {A: set()}, T0 + 30 * S)
    assert ended.key == begun.key
    assert spans([begun, ended]) == [
        ("p1", "0000:10:00.0", 0, None), ("p1", "0000:10:00.0", 0, 30 * S)
    ]  # fmt: skip


def test_each_slot_and_each_of_several_holders_apart() -> None:
    claims = Claims()
    begun = claims.update("n1", {A: {POD, JOB}, B: {JOB}}, T0)
    assert len({one.key for one in begun}) == 3
    ended = claims.update("n1", {A: {JOB}, B: {JOB}}, T0 + S)
    assert spans(ended) == [("p1", "0000:10:00.0", 0, S)]


def test_a_silence_ends_claims_when_they_were_last_seen() -> None:
    claims = Claims()
    claims.update("n1", {A: {POD}}, T0)
    assert claims.expire(T0 + KEPT_US) == []
    assert spans(claims.expire(T0 + KEPT_US + S)) == [("p1", "0000:10:00.0", 0, 0)]
    back = T0 + 2 * KEPT_US
    assert spans(claims.update("n1", {A: {POD}}, back)) == [
        ("p1", "0000:10:00.0", 2 * KEPT_US, None)
    ]


def test_after_kill_9_a_claim_goes_on_and_one_whose_holder_has_gone_ends(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    first = Claims(path)
    first.update("n1", {A: {POD}, B: {JOB}}, T0)
    first.save(T0)
    again = Claims(path)
    assert spans(again.update("n1", {A: {POD}, B: set()}, T0 + 60 * S)) == [
        ("42", "0000:11:00.0", 0, 60 * S)
    ]
    much_later = Claims(path)
    told = spans(much_later.update("n1", {A: {POD}}, T0 + 2 * KEPT_US))
    assert ("p1", "0000:10:00.0", 0, 0) in told
    assert ("p1", "0000:10:00.0", 2 * KEPT_US, None) in told


def test_a_broken_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.write_bytes(b'[{"node":')
    claims = Claims(path)
    assert len(claims.update("n1", {A: {POD}}, T0)) == 1
    claims.save(T0)
    assert Claims(path).update("n1", {A: {POD}}, T0 + S) == []
