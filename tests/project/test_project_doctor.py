"""The doctor says what it found and what to do, and never falls over."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner

from collectors import doctor
from collectors.kit import plugins
from collectors.kit.checks import Check, Verdict
from collectors.kit.log import LineFormatter, set_up_logging


def one_part(monkeypatch: pytest.MonkeyPatch, found: list[Check]) -> None:
    def names(_: str) -> list[str]:
        return ["one"]

    def load(*_: str) -> Callable[[], list[Check]]:
        return lambda: found

    monkeypatch.setattr(plugins, "names", names)
    monkeypatch.setattr(plugins, "load", load)


def test_it_finds_python_version_clock_and_gpus() -> None:
    found = {check.name: check for check in doctor.checks()}
    assert set(found) == {"Python", "Petawatch", "Clock", "GPUs"}
    assert found["Python"].verdict is Verdict.OK
    assert sys.executable in found["Python"].found
    assert all(check.found for check in found.values())
    assert all(check.todo for check in found.values() if check.verdict is not Verdict.OK)


def test_status_and_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Check("Broker", Verdict.FAIL, "nobody answers", "Start it.")
    one_part(monkeypatch, [Check("Disk", Verdict.OK, "90 GB free"), bad])
    found = CliRunner().invoke(doctor.doctor, [])
    assert found.exit_code == 1
    assert "✗ fail  Broker         nobody answers" in found.output
    assert "→ Start it." in found.output
    lines = CliRunner().invoke(doctor.doctor, ["--json"]).output.splitlines()
    assert msgspec.json.decode(lines[1], type=Check) == bad
    one_part(monkeypatch, [Check("Disk", Verdict.WARN, "little")])
    assert CliRunner().invoke(doctor.doctor, []).exit_code == 0


def test_a_part_that_is_not_installed_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    one_part(monkeypatch, [])

    def load(*_: str) -> object:
        raise plugins.MissingPartError("pipeline needs duckdb")

    monkeypatch.setattr(plugins, "load", load)
    assert doctor.gather() == [
        Check("One", Verdict.OK, "not installed here (pipeline needs duckdb)")
    ]


def line_of(message: str, *arguments: object) -> str:
    record = logging.LogRecord("part", logging.INFO, "", 0, message, arguments, None)
    return LineFormatter().format(record)


def test_log_lines_are_one_line_and_hold_no_secret() -> None:
    line = line_of("opened url=%s", "postgresql://user:hunter2@host/x\nnext")
    assert "\n" not in line
    assert "hunter2" not in line
    assert "info part opened url=postgresql://…@host/x ⏎ next" in line
    assert "abcdef" not in line_of("header=%s", "Authorization: Token abcdef")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("p", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert LineFormatter().format(record).endswith("error p failed error=ValueError: two ⏎ lines")


def test_unknown_log_level() -> None:
    with pytest.raises(ValueError, match="write debug"):
        set_up_logging("loud")
