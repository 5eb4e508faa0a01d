"""A table of allocations: what is taken, what is refused and where, and what a second import changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from collectors.cli import main
from collectors.contract.topics import Allocation, Subject
from collectors.imports.table import TableError, read_table

HEAD = "tenant,project,job,node,slots,from,to\n"


def rows(folder: Path, text: str) -> list[Allocation]:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return list(read_table(path, "import:t", 5))


def test_a_line_is_an_allocation(tmp_path: Path) -> None:
    (one,) = rows(
        tmp_path,
        HEAD + 'lab,"a, b",7,n1,0000:1b:00.0;0000:3D:00.0,2026-01-31T20:00:00.5+08:00,1769860801\n',
    )
    assert one.subjects == (Subject("n1", ("0000:1b:00.0", "0000:3d:00.0")),)
    assert (one.tenant, one.project, one.job) == ("lab", "a, b", "7")
    assert (one.from_us, one.to_us) == (1_769_860_800_500_000, 1_769_860_801_000_000)
    assert (one.source, one.known_us, one.precedence, one.kind) == ("import:t", 5, 0, "job")


def test_what_a_line_leaves_open_is_all_and_without_end(tmp_path: Path) -> None:
    (one,) = rows(tmp_path, "node,from,tenant\nn1,0,lab\n")
    assert one.subjects == (Subject("n1"),)
    assert one.to_us is None


def test_a_corrected_end_is_the_same_allocation(tmp_path: Path) -> None:
    (before,) = rows(tmp_path, HEAD + "lab,,7,n1,,10,\n")
    (after,) = rows(tmp_path, HEAD + "lab,,7,n1,,10,20\n")
    assert before.key == after.key
    assert after.to_us == 20_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenant,node\n", "no column 'from'"),
        ("tenant,node,from,form\n", "not all are known"),
        ("tenant,node,from,from\n", "each once"),
        ("", "no column 'tenant'"),
        (HEAD + "lab,,,n1,,2026-01-31T12:00:00,\n", "write 2026-01-31T12:00:00+08:00"),
        (HEAD + "lab,,,n1,,NaN,\n", "`from` is 'NaN'"),
        (HEAD + "lab,,,n1,,1e30,\n", "seconds since 1970"),
        (HEAD + "lab,,,n1,,10,9\n", "`to` is before `from`"),
        (HEAD + "lab,,,n1,1b,10,\n", "`slots`"),
        (HEAD + ",,,n1,,10,\n", "`tenant` must say something"),
        (HEAD + "lab,,,n1,,10\n", "not as many cells"),
        (HEAD + "lab,,,n1,,10,,x\n", "not as many cells"),
        (HEAD + "lab,,,n1,,10,\nlab,,,n1,,10,20\n", "is there twice"),
        ("tenant,node,from,kind\nlab,n1,0,jobs\n", "`kind` is one of"),
        (HEAD + 'lab,,,"n1,,10,\n', "unexpected end"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError, match=r"table\.csv:\d+: ") as refused:
        rows(tmp_path, text)
    assert said in str(refused.value)


def test_a_bad_last_line_sends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "lab,,,n1,,10,\nlab,,,n2,,x,\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["import-allocations", str(path), "--stdout"])
    assert done.exit_code == 1
    assert "t.csv:3: `from` is 'x'" in done.output
    assert "import:" not in done.output


def test_what_was_imported_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "lab,,,n1,,10,\n", encoding="utf-8")
    said, taken = (
        json.loads(
            CliRunner().invoke(main, ["import-allocations", str(path), "--stdout", *more]).output
        )
        for more in ([], ["--withdraw"])
    )
    assert taken["deleted"] is True
    assert "deleted" not in said
    assert (
        (taken["source"], taken["id"])
        == (said["source"], said["id"])
        == ("import:t", "/n1/@10000000")
    )
