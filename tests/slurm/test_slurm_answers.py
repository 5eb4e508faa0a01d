"""What Slurm's commands answer: real captures, other versions' forms, names chosen by users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collectors.slurm.accounting import parse_accounting
from collectors.slurm.names import gpu_count, gres_numbers, hosts
from collectors.slurm.queue import Queued, parse_queue

CAPTURES = Path(__file__).parents[1] / "captures/slurm"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10],login", ["n08", "n09", "n10", "login"]),
        ("r[1-2]n[1,3]-ib", ["r1n1-ib", "r1n3-ib", "r2n1-ib", "r2n3-ib"]),
        ("cpn-f13-03-[01-02],cpn-f13-04-01", ["cpn-f13-03-01", "cpn-f13-03-02", "cpn-f13-04-01"]),
        ("None assigned", []),
        ("", []),
    ],
)
def test_lists_of_hosts(text: str, expected: list[str]) -> None:
    assert list(hosts(text)) == expected


@pytest.mark.parametrize("text", ["n[1-2", "n]", "n[a]", "n[1-99999999]", "n[1-2],,m", "n[]"])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        hosts(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:h800:2(IDX:0-1)", (0, 1)),
        ("gpu:2(IDX:0,3)", (0, 3)),
        ("gpu:h800:1(IDX:2),gpu:a800:2(IDX:4-5)", (2, 4, 5)),
        ("nic:1(IDX:0),gpu:h800:1(IDX:7)", (7,)),
        ("gpu:1g.10gb:1(IDX:3)", None),
        ("gpu:h800:2", ()),
        ("gpu:h800:2(S:0-1)", None),
        ("shard:h800:4(2/8,2/8)", ()),
        ("", ()),
    ],
)
def test_numbers_of_gpus(text: str, expected: tuple[int, ...] | None) -> None:
    assert gres_numbers(text) == expected


@pytest.mark.parametrize(
    ("tres", "expected"),
    [
        ("billing=2,cpu=2,gres/gpu=2,node=1", 2),
        ("cpu=2,gres/gpu:h800=3,gres/gpu=3", 3),
        ("gres/gpu:h800=1,gres/gpu:a800=2", 3),
        ("cpu=2,gres/shard=4", None),
        ("", None),
    ],
)
def test_counts_of_gpus(tres: str, expected: int | None) -> None:
    assert gpu_count(tres) == expected


def captured(name: str) -> dict[str, Queued]:
    rows, refused = parse_queue((CAPTURES / name).read_bytes())
    assert refused == 0
    return {row.job: row for row in rows}


def test_a_real_queue_at_work() -> None:
    rows = captured("squeue-22.05.8-running.json")
    assert sorted(rows, key=int) == ["1", "2", "3", "4", "9"]
    assert rows["1"].numbers == {"n1": (0, 1)}
    assert rows["2"].numbers == {"n1": (2,), "n2": (0,)}
    assert (rows["9"].account, rows["9"].gpus, rows["9"].end_s) == ("lab-a", 1, None)
    assert {row.cluster for row in rows.values()} == {"petawatch"}


def test_a_real_queue_of_what_is_over() -> None:
    rows = captured("squeue-22.05.8-ended.json")
    assert (rows["5"].start_s, rows["5"].end_s) == (1_795_524_362, 1_795_524_367)
    assert rows["10"].numbers == {"n1": (0, 1, 2, 3), "n2": (0,)}
    # Cancelled before they began, and requeued: no times of a run.
    assert not {"6", "7", "11"} & set(rows)


def test_real_accounting() -> None:
    rows, refused = parse_accounting((CAPTURES / "sacct-22.05.8.txt").read_text())
    assert refused == 0
    told = {row.job: row for row in rows}
    assert told["10"].nodes == ("n1", "n2")
    assert (told["10"].gpus, told["10"].end_s) == (5, 1_795_524_476)
    assert told["11"].state == "REQUEUED"
    assert told["8"].gpus is None
    assert not {"6", "7"} & set(told)


def test_a_line_that_cannot_be_read_is_counted_and_the_next_is_read() -> None:
    text = (CAPTURES / "sacct-22.05.8.txt").read_text()
    rows, refused = parse_accounting("x|y\n1|c|a|u|S|later|Unknown|n1|\n" + text)
    assert refused == 2
    assert len(rows) == 9


def test_times_as_sacct_writes_them_by_itself() -> None:
    (row,), _ = parse_accounting(
        "7|c|a|u|CANCELLED by 5|2016-12-22T07:15:13|Unknown|n1|gres/gpu=2\n"
    )
    assert (row.start_s, row.end_s, row.state) == (1_482_390_913, None, "CANCELLED")


def entry(**changes: Any) -> dict[str, Any]:
    """A job as data_parser v0.0.40 and later write it."""
    number = {"set": True, "infinite": False}
    job: dict[str, Any] = {
        "job_id": 7,
        "job_state": ["RUNNING"],
        "start_time": {**number, "number": 100},
        "end_time": {**number, "number": 200},
        "restart_cnt": 1,
        "cluster": "c",
        "account": "lab",
        "user_name": "eve",
        "nodes": "n[1-2]",
        "gres_detail": ["gpu:h800:1(IDX:2)", "gpu:h800:2(IDX:0-1)"],
        "tres_alloc_str": "cpu=2,gres/gpu=3",
        "name": "anything",
    }
    return {**job, **changes}


def queue(*jobs: dict[str, Any]) -> tuple[list[Queued], int]:
    return parse_queue(json.dumps({"jobs": jobs, "warnings": []}).encode())


def test_newer_forms() -> None:
    (row,), _ = queue(entry())
    assert row == Queued(
        "7", "c", 100, None, 1, "lab", "eve", ("n1", "n2"), 3, {"n1": (2,), "n2": (0, 1)}
    )
    (over,), _ = queue(entry(job_state=["COMPLETED", "COMPLETING"], gres_detail=[]))
    assert over.end_s == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"job_state": ["PENDING", "COMPLETING"]},
        {"job_state": ["PENDING"], "nodes": ""},
        {"start_time": {"set": False, "infinite": False, "number": 0}},
        {"job_state": ["CANCELLED"], "nodes": ""},
    ],
)
def test_what_has_not_begun_is_no_run(changes: dict[str, Any]) -> None:
    assert queue(entry(**changes)) == ([], 0)


def test_details_that_are_not_one_for_each_node_are_not_believed() -> None:
    (row,), _ = queue(entry(gres_detail=["gpu:h800:1(IDX:2)"]))
    assert row.numbers == {}


def test_an_entry_that_cannot_be_read_is_counted_and_the_next_is_read() -> None:
    rows, refused = queue({"job_id": "x"}, entry(nodes="n[1"), entry(job_id=8))
    assert refused == 2
    assert [row.job for row in rows] == ["8"]


def test_a_jobs_name_is_never_taken_for_anything_else() -> None:
    name = "x Nodes=n9 GRES=gpu:h800:8(IDX:0-7) Account=other\n\x1b[0m"
    (row,), _ = queue(entry(name=name, comment=name))
    assert (row.account, row.nodes) == ("lab", ("n1", "n2"))
    data = json.dumps({"jobs": [entry(name="NAME")]}).encode().replace(b"NAME", b"\xff\xfe")
    assert len(parse_queue(data)[0]) == 1


@pytest.mark.parametrize("data", [b"", b"slurm_load_jobs error: down", b"[]", b'{"jobs":1}'])
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_queue(data)
