"""Documents are tested too: what they name exists, and what exists is named."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

from collectors.agent.settings import NodeSettings
from collectors.cli import GROUP, HELP
from collectors.contract.catalogue import CATALOGUE
from collectors.contract.topics import topic_specs
from collectors.kit import plugins
from collectors.kit.config import OTHER_VARIABLES, PREFIX, SettingsStruct, describe
from collectors.slurm.settings import SlurmSettings
from pipeline.settings import Settings
from pipeline.watch.alerts.expressions import PHYSICS

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [path for path in DOCS if "Made by deploy/make_docs.py" not in path.read_text()]
_SETTINGS: tuple[type[SettingsStruct], ...] = (Settings, NodeSettings, SlurmSettings)
UNIT = re.compile(r"_(w|mj|c|mhz|bytes)$")
FRAME = {"temperature_c", "power_kw", "efficiency_gflops_w", "process_resident_memory_bytes"}
"""Of the live frame and of the agent's own page, which have names of their own."""


def name(path: Path) -> str:
    return path.name


def test_made_pages_are_as_the_code_makes_them() -> None:
    pages: dict[str, str] = runpy.run_path(str(ROOT / "deploy" / "make_docs.py"))["pages"]()
    assert set(pages) == {"metrics.md", "petawatch.proto", "settings.md", "xids.md"}
    for page, text in pages.items():
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == text, "run `make docs`"


def test_every_metric_and_setting_has_its_row() -> None:
    metrics = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert metrics == [metric.name for metric in CATALOGUE]
    text = (ROOT / "docs" / "settings.md").read_text()
    settings = [row for row in re.findall(r"^\| `(\w+)`", text, re.MULTILINE) if row.islower()]
    assert settings == [item.name for kind in _SETTINGS for item in describe(kind)]


def test_every_setting_is_heeded() -> None:
    for part, kind in zip(
        ("pipeline", "collectors/agent", "collectors/slurm"), _SETTINGS, strict=True
    ):
        check_heeded(part, kind)


def check_heeded(part: str, kind: type[SettingsStruct]) -> None:
    sources = [path.read_text() for path in (ROOT / part).rglob("*.py")]
    for item in describe(kind):
        heeded = re.compile(rf"\.{item.name}\b")
        assert any(heeded.search(text) for text in sources), f"nothing reads {item.name}"


def test_readme_lists_every_command_with_its_text() -> None:
    rows = re.findall(r"^\| `petawatch (\S+)` \| (.*) \|$", (ROOT / "README.md").read_text(),
                      re.MULTILINE)  # fmt: skip
    assert dict(rows) == HELP


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_commands_and_options_exist(path: Path) -> None:
    for command, rest in re.findall(r"petawatch ([a-z-]+)([^`#\n|]*)", path.read_text()):
        if command not in HELP:
            continue
        found: click.Command = plugins.load(GROUP, command)
        parts = [found, *getattr(found, "commands", {}).values()]
        known = {flag for part in parts for parameter in part.params for flag in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, command


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_what_is_in_code_marks_exists(path: Path) -> None:
    text = path.read_text()
    marked = set(re.findall(r"`([^`\n]+)`", text))
    variables = {item.variable for kind in _SETTINGS for item in describe(kind)}
    variables |= {PREFIX + other for other in OTHER_VARIABLES}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)) <= variables
    topics = {spec.name for spec in topic_specs()}
    files = {"petawatch.proto", "petawatch.toml"}
    named = {word for word in marked if re.fullmatch(r"(telemetry|petawatch)\.[a-z]+", word)}
    assert named <= topics | files
    metrics = {word for word in marked if re.fullmatch(r"[a-z0-9_]+", word) and UNIT.search(word)}
    assert metrics <= set(CATALOGUE.by_name) | set(PHYSICS) | FRAME


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_make_targets_named_exist_and_are_listed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    for path in WRITTEN:
        named = set(re.findall(r"`make ([a-z-]+)", path.read_text()))
        named |= set(re.findall(r"^make ([a-z-]+)", path.read_text(), re.MULTILINE))
        assert named <= targets, path.name
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert targets <= set(phony[1].split())


def test_benchmarks_named_exist() -> None:
    for benchmark in re.findall(r"python -m benchmarks\.(\w+)", (ROOT / "README.md").read_text()):
        assert (ROOT / "benchmarks" / f"{benchmark}.py").is_file(), benchmark


def test_documents_are_reachable_from_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/{path.name}" in readme for path in (ROOT / "docs").glob("*.md"))


def test_what_is_bundled_is_licensed() -> None:
    notice = (ROOT / "NOTICE").read_text()
    bundled = [p for p in (ROOT / "dashboard").rglob("*") if p.suffix in {".woff2", ".ttf"}]
    for path in bundled:
        assert str(path.relative_to(ROOT)) in notice
    for named in re.findall(r"(?:dashboard|collectors)/\S+\.\w+", notice):
        assert (ROOT / named.rstrip(").,:")).is_file(), named
