"""make and what it calls, as far as that can be tried without setting a machine up again."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "deploy" / "setup.py"


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **environ},
    )  # fmt: skip


def needs_make() -> str:
    found = shutil.which("make")
    if found is None:
        pytest.skip("make is not installed here")
    return found


def test_set_up_needs_only_the_standard_library() -> None:
    tree = ast.parse(SETUP.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_missing_tools_are_named_and_stop_nothing(tmp_path: Path) -> None:
    done = run(sys.executable, SETUP, "tools", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Chromium is not here: browser tests will be left out" in done.stdout
    assert "gcc is not here" in done.stdout


def test_a_python_that_is_too_old_is_said() -> None:
    done = run(needs_make(), "--no-print-directory", "python", "PYTHON=")
    assert done.returncode != 0
    assert "needs Python 3.11 or later" in done.stdout


def test_make_lists_its_targets() -> None:
    done = run(needs_make(), "--no-print-directory")
    for target in ("run", "test", "lint", "quick", "stack", "browser", "services", "lock"):
        assert f"  make {target} " in done.stdout


@pytest.mark.parametrize("kind", ["run", "dev"])
def test_a_second_set_up_does_nothing(kind: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock",
                 "requirements-build.lock"):  # fmt: skip
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    for stamp in (".installed-run", ".installed-dev"):
        (tmp_path / ".venv" / stamp).touch()
    make = [needs_make(), "-C", tmp_path, "-n"]
    stamp = f".venv/.installed-{kind}"
    assert "setup.py" not in run(*make, stamp).stdout
    os.utime(tmp_path / "pyproject.toml", ns=(2**62, 2**62))
    assert f"setup.py environment {kind}" in run(*make, stamp).stdout


def test_the_machines_check_asks_for_everything() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "PETAWATCH_REQUIRE_STACK" in script.read_text()
    assert "PETAWATCH_REQUIRE_BROWSER" in script.read_text()
