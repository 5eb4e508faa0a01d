"""What the readers of `site.toml` and of the tenants file share: every slip has file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from pathlib import Path
from typing import Any, cast

from collectors.kit.toml_file import ConfigError, closest, line_of

MOST_NODES = 100_000
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class TomlReader:
    """A file's text, for messages that say where."""

    path: Path
    text: str

    def error(self, line: int, key: str, text: str) -> ConfigError:
        """What is wrong with a key, and what to write instead."""
        return ConfigError(f"{self.path}:{line}: {key}: {text}")

    def only(self, table: dict[str, Any], known: Iterable[str], line: int) -> None:
        """Refuses keys that there are not."""
        for key in table:
            if key not in known:
                at = self.line_within(key, line)
                raise self.error(at, key, f"no such key; {closest(key, list(known))}")

    def line_within(self, key: str, line: int) -> int:
        """The line of a key in the table that begins at `line`."""
        rest = "\n".join(self.text.split("\n")[line - 1 :])
        return line - 1 + line_of(rest, key)

    def text_of(
        self, table: dict[str, Any], key: str, line: int, default: str | None = None
    ) -> str:
        """A text that is not empty."""
        value = table.get(key, default)
        if not isinstance(value, str) or not value.strip():
            if key not in table:
                raise self.error(line, key, f'is missing; write {key} = "…"')
            raise self.error(self.line_within(key, line), key, "write a text in quotes")
        return value

    def entries(
        self, table: dict[str, Any], name: str, keys: Sequence[str], zone: tzinfo
    ) -> list[TomlEntry]:
        """All [[name]] tables, with no other keys than these; none where the file has none."""
        given = table.get(name, [])
        if not isinstance(given, list) or not all(
            isinstance(item, dict) for item in cast("list[object]", given)
        ):
            raise self.error(
                line_of(self.text, name), name, f"write at least one [[{name}]] entry, not [{name}]"
            )
        tables = cast("list[dict[str, Any]]", given)
        # Inline tables have no head of their own.
        lines = [*_heads(self.text, name), *[line_of(self.text, name)] * len(tables)]
        return [
            TomlEntry(self, one, line, zone, keys) for one, line in zip(tables, lines, strict=False)
        ]


@dataclass(frozen=True, slots=True)
class TomlEntry:
    """One [[name]] table; dates without a clock are midnight at the site."""

    reader: TomlReader
    table: dict[str, Any]
    line: int
    """Where the table begins."""
    zone: tzinfo
    keys: Sequence[str]

    def __post_init__(self) -> None:
        self.reader.only(self.table, self.keys, self.line)

    def error(self, key: str, text: str) -> ConfigError:
        """What is wrong with a key of this table."""
        at = self.reader.line_within(key, self.line) if key in self.table else self.line
        return self.reader.error(at, key, text)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty; `default` where it may be left out."""
        if default is not None and key not in self.table:
            return default
        return self.reader.text_of(self.table, key, self.line)

    def texts(self, key: str) -> list[str]:
        """A text or a list of them; none where it is left out."""
        given = self.table.get(key, [])
        items = cast("list[Any]", given if isinstance(given, list) else [given])
        if not all(isinstance(item, str) and item.strip() for item in items):
            raise self.error(key, "write a text in quotes, or a list of them")
        return [str(item) for item in items]

    def nodes(self, key: str) -> list[str]:
        """Names of nodes, ranges expanded; at least one."""
        names = [name for pattern in self.texts(key) for name in expand(pattern)]
        for name in names:
            if not is_name(name):
                raise self.error(key, f'not a name: {name!r}; write "a03n[01-08]" or a list')
        if not names:
            raise self.error(key, 'write "a03n[01-08]", or a list of names')
        return names

    def time_us(self, key: str) -> int | None:
        """A date or a time in µs since 1970; None where it is left out."""
        value = self.table.get(key)
        if value is None:
            return None
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time(), self.zone)
        if not isinstance(value, datetime):
            raise self.error(key, "write a date like 2026-01-31, without quotes")
        moment = value if value.tzinfo else value.replace(tzinfo=self.zone)
        return round(moment.timestamp() * 1e6)

    def between(self) -> tuple[int, int | None]:
        """`from` (0 where it is left out) and `to`, in µs since 1970."""
        from_us, to_us = self.time_us("from") or 0, self.time_us("to")
        if to_us is not None and to_us <= from_us:
            raise self.error("to", "must be later than from")
        return from_us, to_us


def _heads(text: str, name: str) -> list[int]:
    head = re.compile(rf"\s*\[\[\s*{re.escape(name)}\s*\]\]")
    return [number for number, line in enumerate(text.split("\n"), 1) if head.match(line)]


def is_name(text: str) -> bool:
    """Whether a node may be called so."""
    return _NAME.fullmatch(text) is not None


def expand(pattern: str) -> list[str]:
    """`a03n[01-08]` as its eight names; what has no range as itself."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) - int(first) > MOST_NODES:
        return [pattern]
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in expand(f"{head}{number}{tail}")]
