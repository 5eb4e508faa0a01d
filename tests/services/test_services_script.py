"""The script that has a real Kafka and InfluxDB: what it says where it cannot, and what it leaves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "deploy" / "services" / "services.py"


def run(cache: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a cache of its own, and no tools unless `PATH` is given."""
    bare = {"HOME": str(cache), "PETAWATCH_CACHE": str(cache), "PATH": "/nonexistent", **env}
    command = [sys.executable, str(_SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=bare, check=False)


def test_what_is_missing_is_said_in_words(tmp_path: Path) -> None:
    done = run(tmp_path, "start")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "Kafka: Java 17 or later, Maven missing" in done.stderr
    assert "InfluxDB: go, cargo, rustc, gcc, pkg-config missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_cached_never_fetches(tmp_path: Path) -> None:
    done = run(tmp_path, "start", "--cached", PATH=os.environ["PATH"])
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("services.py start once") == 2
    assert not list(tmp_path.glob("kafka-*"))


def test_an_address_that_does_not_answer_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "start", "--kafka", PETAWATCH_BUS="kafka://127.0.0.1:9")
    assert done.returncode == 3
    assert "PETAWATCH_BUS is given and does not answer: kafka://127.0.0.1:9" in done.stderr


def test_a_process_number_that_is_somebody_elses_now_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state = {
            "kafka": {"pid": stranger.pid, "born": "1", "address": "127.0.0.1:9", "temporary": None}
        }
        (tmp_path / "services.json").write_text(json.dumps(state), encoding="utf-8")
        assert "kafka: not running" in run(tmp_path, "status").stdout
        assert run(tmp_path, "stop").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert json.loads((tmp_path / "services.json").read_text(encoding="utf-8")) == {}


def test_the_state_is_for_the_owners_eyes(tmp_path: Path) -> None:
    assert run(tmp_path, "status").returncode == 0
    assert stat.S_IMODE((tmp_path / "services.json").stat().st_mode) == 0o600


@pytest.mark.stack
def test_a_given_address_that_answers_is_taken(tmp_path: Path, kafka_url: str) -> None:
    done = run(tmp_path, "start", "--kafka", PETAWATCH_BUS=kafka_url)
    assert done.stdout == f"PETAWATCH_BUS={kafka_url}\n"
    assert json.loads((tmp_path / "services.json").read_text(encoding="utf-8")) == {}


@pytest.mark.stack
def test_a_postgresql_that_is_given_is_taken_and_one_is_not_begun_unasked(
    tmp_path: Path, postgres_url: str
) -> None:
    done = run(tmp_path, "start", "--postgres", PETAWATCH_BOOKS=postgres_url)
    assert done.stdout == f"PETAWATCH_BOOKS={postgres_url}\n"
    assert json.loads((tmp_path / "services.json").read_text(encoding="utf-8")) == {}
    assert "PETAWATCH_BOOKS" not in run(tmp_path, "start", "--cached").stdout
