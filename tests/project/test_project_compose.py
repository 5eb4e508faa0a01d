"""docker-compose.yml and its Dockerfile, as far as they can be checked without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from collectors.cli import GROUP
from collectors.kit import plugins
from collectors.kit.config import describe
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
ONCE = {"secrets", "topics"}
OURS = {name for name, service in SERVICES.items() if "build" in service}


def test_the_whole_product_is_there() -> None:
    assert set(SERVICES) == {"kafka", "influxdb", "secrets", "topics", "store", "watch", "books",
                             "notify", "serve", "agents"}  # fmt: skip
    assert SERVICES["kafka"]["image"] == "apache/kafka:4.3.1"
    assert SERVICES["influxdb"]["image"] == "influxdb:2.9.1"
    assert SERVICES["store"]["deploy"]["replicas"] == 2


def test_no_secret_is_written_in_it() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|PASSWORD|SECRET", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert str(value).startswith("/run/petawatch/"), f"{name}: {key}"
    assert not re.search(r"//[^/@\s]+:[^/@\s]+@", TEXT)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback(name: str) -> None:
    assert all(str(p).startswith("127.0.0.1:") for p in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONCE))
def test_what_goes_on_running_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert len(check["test"]) > 1
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_volumes_and_dependencies_are_named() -> None:
    named = set(DOCUMENT["volumes"])
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            # A file of this checkout, or a volume that has its name.
            found = (ROOT / source).is_file() if source.startswith("./") else source in named
            assert found, f"{name}: {volume}"
        for other, how in service.get("depends_on", {}).items():
            ends = how["condition"] == "service_completed_successfully"
            assert ends == (other in ONCE), f"{name} waits for {other}"
            assert other in SERVICES


@pytest.mark.parametrize("name", sorted(OURS - {"secrets"}))
def test_every_command_exists(name: str) -> None:
    command, *options = SERVICES[name]["command"]
    found: click.Command = plugins.load(GROUP, command)
    known = {flag for parameter in found.params for flag in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_setting_exists(name: str) -> None:
    settings = {item.variable for item in describe(Settings)}
    settings |= {f"{item.variable}_FILE" for item in describe(Settings) if item.secret}
    assert set(SERVICES[name].get("environment", {})) <= settings


@pytest.mark.parametrize("name", sorted(OURS - {"secrets", "topics"}))
def test_ours_run_with_little_leave(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service
    assert "privileged" not in service


def test_images_run_without_root_from_hashed_locks() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    finals = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert [stage.split("\n")[0].split()[-1] for stage in finals] == ["agent", "pipeline"]
    assert all(re.search(r"^USER petawatch$", stage, re.MULTILINE) for stage in finals)
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert re.search(r"PYTHON_IMAGE=python:3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    targets = {SERVICES[name]["build"]["target"] for name in OURS}
    assert targets == {"agent", "pipeline"}


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert list(ROOT.glob(source)), source
            assert any(Path(source).match(pattern) for pattern in allowed), source
