"""`petawatch notify-test`: a message to each target now; its exit status says whether all took it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from notify_tools import receiver, targets_file

from collectors.cli import main


def targets(folder: Path, url: str) -> Path:
    """A webhook, and a command that leaves a file."""
    return targets_file(
        folder,
        f'[[targets]]\nname = "hook"\nkind = "webhook"\nurl = "{url}"\nseverity = "critical"\n'
        f'[[targets]]\nname = "drain"\nkind = "command"\nargv = ["/usr/bin/tee", "{folder}/ran"]\n',
    )


def asked(file: Path, *names: str) -> Result:
    return CliRunner().invoke(main, ["notify-test", "--notify", str(file), *names])


def test_all_are_told_but_no_command_is_run(tmp_path: Path) -> None:
    with receiver() as told:
        said = asked(targets(tmp_path, told.url))
        assert [body["kind"] for body in told.bodies()] == ["test"]
    assert said.exit_code == 0
    assert "hook: taken" in said.output
    assert "drain: a command, not run" in said.output
    assert not (tmp_path / "ran").exists()


def test_a_command_that_is_named_is_run(tmp_path: Path) -> None:
    said = asked(targets(tmp_path, "http://127.0.0.1:9/"), "drain")
    assert (said.exit_code, said.output) == (0, "drain: taken\n")
    assert '"kind":"test"' in (tmp_path / "ran").read_text()


def test_one_that_does_not_take_it_is_named(tmp_path: Path) -> None:
    with receiver(503) as told:
        said = asked(targets(tmp_path, told.url), "hook")
    assert said.exit_code == 1
    assert "hook: " in said.output
    assert "503" in said.output


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    said = asked(targets(tmp_path, "http://127.0.0.1:9/"), "hok")
    assert said.exit_code == 2
    assert "there is: hook, drain" in said.output


def test_a_user_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 12_345_678)
    with receiver() as told:
        assert asked(targets(tmp_path, told.url), "hook").exit_code == 0
        assert "user 12345678" in told.bodies()[0]["incident"]["text"]
