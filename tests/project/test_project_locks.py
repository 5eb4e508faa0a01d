"""The lock files: hashed, without index, in step with pyproject.toml; the agent's is the agent's alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = {
    "requirements-agent.lock": ((), ()),
    "requirements.lock": (("pipeline", "dashboard"), ()),
    "requirements-dev.lock": (("pipeline", "dashboard"), ("dev",)),
    "requirements-build.lock": (None, ("build",)),
}
FORBIDDEN = {"fastapi", "dash", "plotly", "sqlalchemy", "alembic", "duckdb", "pandas", "starlette",
             "uvicorn", "influxdb-client"}  # fmt: skip
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)", re.MULTILINE)


@lru_cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@lru_cache
def pins(lock: str) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for match in PIN.finditer((ROOT / lock).read_text()):
        found.setdefault(canonicalize_name(match["name"]), []).append(Version(match["version"]))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= 5
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|--index-url|--find-links|--extra-index|/home/|/root/|/tmp/", text)


def asked(lock: str) -> list[Requirement]:
    extras, groups = LOCKS[lock]
    table = project()
    texts: list[str] = [] if extras is None else list(table["project"]["dependencies"])
    for extra in extras or ():
        texts += table["project"]["optional-dependencies"][extra]
    for group in groups:
        texts += table["dependency-groups"][group]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_satisfy_what_is_asked(lock: str) -> None:
    found = pins(lock)
    for requirement in asked(lock):
        versions = found.get(canonicalize_name(requirement.name), [])
        assert versions, f"{lock} lacks {requirement.name}: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_locks_agree_with_each_other() -> None:
    everything = pins("requirements-dev.lock")
    for lock in ("requirements-agent.lock", "requirements.lock"):
        for name, versions in pins(lock).items():
            assert set(versions) <= set(everything[name]), f"{name} differs in {lock}"


def test_the_agents_lock_holds_nothing_of_the_pipeline() -> None:
    assert not FORBIDDEN & set(pins("requirements-agent.lock"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT, env=environ
    )


@pytest.fixture(scope="module")
def agent_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as a GPU node has it: the agent's lock and our wheel, nothing else."""
    folder = tmp_path_factory.mktemp("agent")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    target = folder / "venv"
    python = target / "bin" / "python"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    install = [*uv, "pip", "install", "--python", python]
    for command in (
        [*uv, "venv", "--python", sys.executable, target],
        [*install, "--require-hashes", "-r", ROOT / "requirements-agent.lock"],
        build,
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    done = run(*install, "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    return target / "bin"


def test_an_agents_environment_is_the_agents_alone(agent_bin: Path) -> None:
    listed = run(agent_bin / "python", "-c", (
        "from importlib.metadata import distributions as d\n"
        "print(*sorted(x.metadata['Name'].lower().replace('_', '-') for x in d()))"
    )).stdout.split()  # fmt: skip
    assert "petawatch" in listed
    assert not FORBIDDEN & set(listed)
    for module in ("fastapi", "dash", "sqlalchemy", "duckdb", "pandas"):
        assert run(agent_bin / "python", "-c", f"import {module}").returncode == 1


def test_what_an_agent_can_do_alone(agent_bin: Path) -> None:
    petawatch = agent_bin / "petawatch"
    assert "agent " in run(petawatch, "--help").stdout
    for command in ("agent", "replay", "simulate"):
        assert run(petawatch, command, "--help").returncode == 0, command
    found = run(petawatch, "doctor")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "(agent)" in found.stdout
    refused = run(petawatch, "serve")
    assert refused.returncode == 2
    assert "pip install 'petawatch[pipeline]'" in refused.stderr


def test_the_wheel_carries_its_data(agent_bin: Path) -> None:
    code = "from collectors.contract.models import gpu_models; print(len(gpu_models()))"
    done = run(agent_bin / "python", "-c", code)
    assert int(done.stdout or 0) > 20, done.stderr
    named = (
        "import pathlib, pipeline; root = pathlib.Path(pipeline.__file__).parent\n"
        "print((root / 'watch/alerts/default_rules.toml').is_file(),"
        " len(list((root / 'runbooks').glob('*.md'))))"
    )
    rules, pages = run(agent_bin / "python", "-I", "-c", named).stdout.split()
    assert rules == "True"
    assert int(pages) == len(list((ROOT / "docs" / "runbooks").glob("*.md"))) > 20
