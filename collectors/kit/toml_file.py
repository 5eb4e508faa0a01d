"""TOML files that people write: read with the place of every slip."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be used: where it stands and what to write instead."""


def closest(name: str, known: list[str]) -> str:
    """`; did you mean "x"?`, or what there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"there is: {', '.join(sorted(known))}"


def read_text(path: Path) -> str:
    """A file's text; raises ConfigError with the file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """What a file's text holds; raises ConfigError with file and line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """A TOML file's text and content; raises ConfigError with file and line."""
    text = read_text(path)
    return text, parse_toml(path, text)


def line_of(text: str, key: str, *, nth: int = 0) -> int:
    """The 1-based line of the nth `key =` or `[key]` of a TOML text; 1 where it is not found."""
    name = re.escape(key)
    pattern = rf"""^\s*(?:\[+\s*)?["']?{name}["']?\s*[.=\]]"""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    return 1 + text.count("\n", 0, found[nth].end()) if nth < len(found) else 1
