"""The agent's settings: its own variables and file, and what to write instead of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.agent.commands import agent_settings
from collectors.agent.node_agent import loop_settings
from collectors.agent.settings import NodeSettings
from collectors.kit.config import ConfigError, load
from pipeline.settings import Settings


def test_the_agents_variables_are_no_other_programs_and_the_reverse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {
        "PETAWATCH_AGENT_INTERVAL_S": "2", "PETAWATCH_RAW_INTERVAL_S": "5",
        "PETAWATCH_AGENT_METRICS_PORT": "1", "PETAWATCH_PORT": "2",
    }  # fmt: skip
    agent, pipeline = load(NodeSettings, environ=environ), load(Settings, environ=environ)
    assert (agent.interval_s, agent.metrics_port) == (2.0, 1)
    assert (pipeline.raw_interval_s, pipeline.port) == (5.0, 2)
    for name, value in {**environ, "PETAWATCH_BUS": "kafka://b:1", "PETAWATCH_NODE": "n"}.items():
        monkeypatch.setenv(name, value)
    found = agent_settings(None, {})
    assert (found.bus, found.node) == ("kafka://b:1", "n")
    monkeypatch.setenv("PETAWATCH_AGENT_BUS", "kafka://a:1")
    assert agent_settings(None, {}).bus == "kafka://a:1"


def test_the_file_is_the_agents_own(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('bus = "kafka://b:9092"\ninterval_s = 5\njob_mappings = ["/a", "/b"]\n')
    found = load(NodeSettings, environ={"PETAWATCH_AGENT_CONFIG": str(file)})
    assert found.bus == "kafka://b:9092"
    assert found.job_mappings == (Path("/a"), Path("/b"))
    # What names the pipeline's file is not the agent's.
    assert load(NodeSettings, environ={"PETAWATCH_CONFIG": str(file)}).bus is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('bus = "b:9092"', "kafka://HOST:PORT"),
        ("intervall_s = 1", 'did you mean "interval_s"'),
        ("interval_s = 0.01", "at least 0.1 and at most 60"),
        ('node = "two words"', "without blanks"),
        ('topic_prefix = "a b"', "letters, digits"),
        ('dcgm_exporter = "localhost:9400"', "http://HOST:PORT/metrics"),
        ('scrape = ["ftp://x"]', "http://HOST:PORT/metrics"),
        ('metrics_host = "localhost"', "127.0.0.1"),
        ("metrics_port = 70000", "at most 65535"),
        ('attribution = "yes"', "true or false"),
        ("spool_mb = 0", "at least 1"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(NodeSettings, environ={}, file=file)
    assert f"{file}:2" in str(caught.value)
    assert says in str(caught.value)


def test_a_slip_in_a_variable_is_said() -> None:
    with pytest.raises(ConfigError, match='"PETAWATCH_AGENT_SPOOL_RATE"'):
        load(NodeSettings, environ={"PETAWATCH_AGENT_SPOOL_RATES": "1"})


def test_the_spool_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/a/.state")
    settings = NodeSettings(node="n1")
    assert settings.spool_path == Path("/home/a/.state/petawatch/spool-n1.sqlite")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/petawatch")
    assert settings.spool_path == Path("/var/lib/petawatch/spool-n1.sqlite")
    assert NodeSettings(node="n1", spool=Path("/x")).spool_path == Path("/x")


def test_the_loop_follows_the_settings() -> None:
    settings = NodeSettings(
        node="n1", interval_s=3, rescan_s=30, processes_s=20, facts_s=50, retry_s=7, release_s=11,
        active_gpu_utilization=0.5, active_sm_activity=0.25, backend="sim", events=False,
    )  # fmt: skip
    loop = loop_settings(settings, ticks=4)
    assert (loop.node, loop.interval_s, loop.rescan_s, loop.processes_s) == ("n1", 3, 30, 20)
    assert (loop.facts_s, loop.retry_s, loop.release_s) == (50, 7, 11)
    assert (loop.ticks, loop.source, loop.listens) == (4, "sim", False)
    assert (loop.rule.gpu_utilization, loop.rule.sm_activity) == (0.5, 0.25)
