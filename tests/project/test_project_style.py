"""How long functions and modules may be, and that nothing is left half done."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("collectors", "pipeline", "dashboard", "benchmarks", "deploy")
MODULES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")
CLOCKS = re.compile(r"\btime\.time\(|\bdatetime\.now\(|\butcnow\(")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short_and_finished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    assert [f"{where} {lines}" for where, lines in functions(path) if lines > 40] == []
    assert not UNFINISHED.search(text)


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "clock.py"], ids=name)
def test_time_comes_through_the_clock(path: Path) -> None:
    if path.parts[len(ROOT.parts)] in {"collectors", "pipeline", "dashboard"}:
        assert not CLOCKS.search(path.read_text(encoding="utf-8"))


def test_most_functions_are_very_short() -> None:
    lengths = sorted(lines for path in MODULES for _, lines in functions(path))
    assert len(lengths) > 100
    assert lengths[len(lengths) * 9 // 10] <= 25


def test_nothing_happens_at_import() -> None:
    # Alembic runs env.py by importing it.
    for path in [path for path in MODULES if path.name != "env.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            loose = isinstance(node, ast.Expr | ast.For | ast.While | ast.With)
            assert is_text or not loose, f"{name(path)}:{node.lineno} acts when it is imported"
