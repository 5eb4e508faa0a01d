"""Settings: who overrides whom, and that every slip is refused with the right words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from collectors.kit.config import ConfigError, SettingsStruct, describe, load, setting
from collectors.kit.options import setting_options
from pipeline.settings import Settings


def refused(
    *, text: str | None = None, environ: dict[str, str] | None = None, folder: Path | None = None,
    **options: object,
) -> str:  # fmt: skip
    file = None
    if text is not None and folder is not None:
        file = folder / "site.settings.toml"
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Settings, environ=environ or {}, options=options, file=file)
    return str(caught.value)


def test_options_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("port = 1\nflush_s = 2\nlateness_s = 3\n")
    environ = {"PETAWATCH_PORT": "11", "PETAWATCH_FLUSH_S": "12"}
    found = load(Settings, environ=environ, options={"port": "21", "site": None}, file=file)
    assert (found.port, found.flush_s, found.lateness_s, found.future_s) == (21, 12.0, 3.0, 60.0)


def test_file_is_named_by_the_environment_or_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Settings, environ={}).port == 8080
    (tmp_path / "petawatch.toml").write_text("port = 5\n")
    assert load(Settings, environ={}).port == 5
    (tmp_path / "other.toml").write_text("port = 6\n")
    assert load(Settings, environ={"PETAWATCH_CONFIG": "other.toml"}).port == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nprot = 3\n", ["site.settings.toml:2", "prot", 'did you mean "port"']),
        ('port = "3"', [":1: port", "a whole number", "'3'"]),
        ("port = 3.5", ["a whole number", "3.5"]),
        ("port = 70000", ["at least 0 and at most 65535"]),
        ("a = 1\n\nport = \n", ["is not TOML", "line 3"]),
        ("flush_s = -1", ["at least 0.1"]),
        ("show_estimates = 3", ["true or false"]),
        ("[port]\nx = 1\n", [":1: port", "a whole number"]),
        ('bus = "redis://user:hunter2@host"', ["sqlite:///", "kafka://HOST:PORT"]),
        ('books = "books.db"', ["sqlite:///", "postgresql://"]),
        ('topic_prefix = "a b"', ["topic_prefix", "letters"]),
        ("influx_token = 5", ["influx_token", "text in quotes"]),
        ("raw_interval_s = true", ["a number"]),
    ],
)
def test_a_slip_in_a_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refused(text=text, folder=tmp_path)
    assert all(word in message for word in words), message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PETAWATCH_PROT", "9", ['did you mean "PETAWATCH_PORT"']),
        ("PETAWATCH_PORT", "tcp://10.0.0.1:80", ["PETAWATCH_PORT", "a whole number"]),
        ("PETAWATCH_SHOW_ESTIMATES", "perhaps", ["true or false"]),
        ("PETAWATCH_API_TOKEN_FILE", "/no/such", ["/no/such", "cannot be read"]),
        ("PETAWATCH_CONFIG", "/no/such.toml", ["/no/such.toml", "cannot be read"]),
    ],
)
def test_a_slip_in_the_environment_is_named(variable: str, value: str, words: list[str]) -> None:
    message = refused(environ={variable: value})
    assert all(word in message for word in words), message


def test_foreign_variables_are_left_alone_and_named(caplog: pytest.LogCaptureFixture) -> None:
    load(Settings, environ={"PETAWATCH_SERVICE_ACCOUNT_X": "1", "HOME": "/"})
    assert "PETAWATCH_SERVICE_ACCOUNT_X" in caplog.text


def test_an_option_is_named() -> None:
    assert "option --flush-s" in refused(flush_s="often")


def test_secrets_come_from_files_and_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t\n")
    environ = {"PETAWATCH_INFLUX_TOKEN_FILE": str(tmp_path / "token")}
    found = load(Settings, environ=environ)
    assert found.influx_token == "s3cr3t"
    assert "s3cr3t" not in repr(found)
    assert "influx_token=…" in repr(found)
    both = {**environ, "PETAWATCH_INFLUX_TOKEN": "s3cr3t"}
    message = refused(environ=both)
    assert "not both" in message
    assert "s3cr3t" not in message
    (tmp_path / "token").write_text("\n")
    assert "is empty" in refused(environ=environ)


def test_auto_and_empty_mean_the_default() -> None:
    environ = {"PETAWATCH_RAW_INTERVAL_S": "auto", "PETAWATCH_SITE": ""}
    found = load(Settings, environ=environ)
    assert found.raw_interval_s is None
    assert found.site is None
    assert (found.raw_interval_for(1_000), found.raw_interval_for(1_001)) == (1.0, 10.0)


def test_lists(tmp_path: Path) -> None:
    environ = {"PETAWATCH_ALLOWED_HOSTS": "a.example, b.example"}
    assert load(Settings, environ=environ).allowed_hosts == ("a.example", "b.example")
    assert load(Settings, environ={"PETAWATCH_ALLOWED_HOSTS": ""}).allowed_hosts == ()
    (tmp_path / "c.toml").write_text('allowed_hosts = ["c"]\n')
    assert load(Settings, environ={}, file=tmp_path / "c.toml").allowed_hosts == ("c",)
    assert "a list of texts" in refused(text='allowed_hosts = "c"', folder=tmp_path)


def test_addresses_lie_in_the_data_folder(tmp_path: Path) -> None:
    found = load(Settings, environ={}, options={"data": str(tmp_path)})
    assert found.bus == f"sqlite:///{tmp_path}/bus.db"
    assert found.store == f"duckdb:///{tmp_path}/series.duckdb"
    assert found.embedded
    kafka = load(Settings, environ={"PETAWATCH_BUS": "kafka://h:1"})
    assert not kafka.embedded
    assert kafka.raw_keep_days == 1.0
    influx = load(Settings, environ={"PETAWATCH_STORE": "influxdb://h:1?org=o"})
    assert influx.raw_keep_days == 7.0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_loopback(host: str) -> None:
    assert load(Settings, environ={"PETAWATCH_HOST": host}).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example"])  # noqa: S104
def test_not_loopback(host: str) -> None:
    assert not load(Settings, environ={"PETAWATCH_HOST": host}).loopback


@pytest.mark.parametrize("name", ["data", "api_token_file"])
def test_a_home_folder_of_nobody_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^option --{name.replace('_', '-')}: "):
        load(Settings, environ={}, options={name: "~no such user/x"})


@given(st.sampled_from(describe(Settings)), st.text(max_size=20))
def test_any_text_is_taken_or_refused_by_name(item: object, value: str) -> None:
    name = getattr(item, "name")  # noqa: B009
    message = ""
    try:
        load(Settings, environ={}, options={name: value})
    except ConfigError as error:
        message = str(error)
    assert not message or message.startswith(f"option --{name.replace('_', '-')}: ")


def test_options_are_made_from_settings(tmp_path: Path) -> None:
    class Few(SettingsStruct, frozen=True, kw_only=True):
        port: Annotated[int, setting("A port.")] = 1
        loud: Annotated[bool, setting("Whether.")] = False
        key: Annotated[str | None, setting("A key.", secret=True)] = None

    @click.command()
    @setting_options(Few, "port", "loud", "key")
    def command(config: Path | None, **options: object) -> None:
        found = load(Few, environ={}, options=options, file=config)
        click.echo(f"{found.port} {found.loud} {found.key}")

    (tmp_path / "key").write_text("k")
    (tmp_path / "c.toml").write_text("port = 7\n")
    arguments = [
        "--loud",
        "--key-file",
        str(tmp_path / "key"),
        "--config",
        str(tmp_path / "c.toml"),
    ]
    assert CliRunner().invoke(command, arguments).output == "7 True k\n"
    assert CliRunner().invoke(command, []).output == "1 False None\n"
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "A port. [1]" in shown
    assert "--key " not in shown
    with pytest.raises(ValueError, match="no such setting: nope"):
        setting_options(Few, "nope")
