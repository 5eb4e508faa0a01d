"""The command itself: lazy, helpful, and plain about what is missing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from collectors import cli
from collectors.contract.bus import BusUnavailableError
from collectors.contract.source import BackendUnavailableError
from collectors.kit import plugins
from collectors.kit.config import ConfigError, SetupError
from collectors.kit.lifecycle import StageFailedError
from pipeline.books.database import BooksUnavailableError

HEAVY = (
    "numpy",
    "google.protobuf",
    "fastapi",
    "dash",
    "sqlalchemy",
    "duckdb",
    "aiokafka",
    "pandas",
)


def test_help_lists_every_command_with_its_text_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from collectors.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert all(f"\n  {name} " in done.stdout for name in plugins.names(cli.GROUP))


@pytest.mark.parametrize("name", plugins.names(cli.GROUP))
def test_the_listed_text_is_the_commands_own(name: str) -> None:
    command: click.Command = plugins.load(cli.GROUP, name)
    assert command.get_short_help_str(200) == cli.HELP[name]


def test_no_text_without_a_command() -> None:
    assert set(cli.HELP) == set(plugins.names(cli.GROUP))


def test_version() -> None:
    found = CliRunner().invoke(cli.main, ["--version"])
    assert found.output == f"petawatch {importlib.metadata.version('petawatch')}\n"


def test_a_slip_is_answered_with_a_suggestion() -> None:
    found = CliRunner().invoke(cli.main, ["servve"])
    assert found.exit_code == 2
    assert "Did you mean 'serve'?" in found.output
    assert "There is: agent, " in CliRunner().invoke(cli.main, ["xyzzy"]).output
    assert CliRunner().invoke(cli.main, ["--log-level", "loud", "doctor"]).exit_code == 2


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    @click.command()
    def command() -> None:
        raise error

    def load(*_: str) -> click.Command:
        return command

    monkeypatch.setattr(plugins, "load", load)
    return CliRunner().invoke(cli.main, ["doctor"])


def failed_stage(error: Exception) -> StageFailedError:
    failed = StageFailedError("store", error)
    failed.__cause__ = error
    return failed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("write this"), 2),
        (plugins.MissingPartError("install that"), 2),
        (SetupError("the token is wrong"), 2),
        (BackendUnavailableError("no driver"), 2),
        (BusUnavailableError("nobody at kafka:9092"), 1),
        (BooksUnavailableError("no such database"), 1),
        (failed_stage(BackendUnavailableError("no driver")), 2),
        (failed_stage(ZeroDivisionError("by zero")), 1),
    ],
)
def test_errors_that_a_person_can_mend_are_sentences(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    found = raising(monkeypatch, error)
    assert found.exit_code == status
    assert "Error: " in found.output
    assert str(error.__cause__ or error) in found.output
    assert "Traceback" not in found.output


def test_a_file_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = raising(monkeypatch, FileNotFoundError(2, "No such file or directory", "/x/y"))
    assert (found.exit_code, found.output) == (1, "Error: /x/y: No such file or directory\n")
    found = raising(monkeypatch, OSError("of nothing that was named"))
    assert isinstance(found.exception, OSError)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--no-open", "--port", "0", "--site", "demo", "--data", "{file}/data"],
         "data: the folder {file}/data cannot be made (Not a directory); name another"),
        (["serve", "--port", "0", "--site", "demo", "--books", "sqlite:///{file}/books.db"],
         "the books' folder {file} cannot be made: File exists"),
        (["backup", "--books", "sqlite:///{file}.db", "books.backup"],
         "there are no books at {file}.db: name those that there are"),
    ],
)  # fmt: skip
def test_places_that_cannot_be_used_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    file = tmp_path / "file"
    file.touch()
    found = CliRunner().invoke(cli.main, [one.format(file=file) for one in arguments])
    assert says.format(file=file) in found.output
    assert found.exit_code == 2
    assert not (tmp_path / "file.db").exists()


def test_a_part_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    point = SimpleNamespace(name="serve", value="pipeline.commands.serve:serve", load=load)

    def entry_points(**_: str) -> list[Any]:
        return [point]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    found = CliRunner().invoke(cli.main, ["serve"])
    assert found.exit_code == 2
    assert "pip install 'petawatch[pipeline]'" in found.output
