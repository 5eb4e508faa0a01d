"""`site.toml`: the inventory as people write it, read with every slip named.

[site]
name = "north"
title = "North campus"
time_zone = "Asia/Hong_Kong"

[[nodes]]
hall = "Hall A"
rack = "a03"
names = "a03n[01-08]"
model = "H800-SXM"
from = 2026-01-01
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.models import gpu_models
from collectors.kit.toml_file import ConfigError, closest, line_of, read_toml

SITE_KEYS = ("name", "title", "time_zone", "precision", "sparsity", "clock_basis")
NODE_KEYS = ("hall", "rack", "names", "model", "slots", "pflops_per_gpu", "from", "to")
_NAMEPLATE = {"precision": "FP16", "sparsity": "dense", "clock_basis": "boost clock"}
_DEFAULT_SLOTS = 8
_MOST_SLOTS, _MOST_NODES = 64, 100_000
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def indexed_slots(count: int) -> tuple[int, ...]:
    """Slots of GPUs known by index alone: 0000:01:00.0 and on."""
    return tuple(parse_slot(f"0000:{index + 1:02x}:00.0") for index in range(count))


def load_inventory(path: Path) -> Inventory:
    """Reads `site.toml`.  Raises ConfigError with file, line, key and what to write."""
    text, table = read_toml(path)
    reader = _Reader(path, text)
    reader.only(table, ("site", "nodes"), 1)
    site = reader.table(table, "site")
    zone = reader.zone(site)
    node_tables = table.get("nodes")
    if not isinstance(node_tables, list) or not all(
        isinstance(item, dict) for item in cast("list[object]", node_tables or [None])
    ):
        raise reader.error(1, "nodes", "write at least one [[nodes]] entry")
    nodes: list[tuple[int, InstalledNode]] = []
    for number, node_table in enumerate(cast("list[dict[str, Any]]", node_tables)):
        entry = _Entry(reader, node_table, number, zone)
        nodes += [(entry.line, node) for node in entry.nodes()]
        if len(nodes) > _MOST_NODES:
            raise reader.error(entry.line, "names", f"more than {_MOST_NODES} nodes")
    _refuse_overlaps(reader, nodes)
    line = line_of(text, "site")
    name = reader.text_of(site, "name", line)
    return Inventory(
        name=name,
        title=reader.text_of(site, "title", line, name),
        time_zone=str(site["time_zone"]),
        nodes=tuple(node for _, node in nodes),
        **{key: reader.text_of(site, key, line, usual) for key, usual in _NAMEPLATE.items()},
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """The file, for messages that say where."""

    path: Path
    text: str

    def error(self, line: int, key: str, text: str) -> ConfigError:
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

    def table(self, table: dict[str, Any], key: str) -> dict[str, Any]:
        found = table.get(key)
        if not isinstance(found, dict):
            raise self.error(1, key, f"write a table [{key}] with {', '.join(SITE_KEYS[:3])}")
        site = cast("dict[str, Any]", found)
        self.only(site, SITE_KEYS, line_of(self.text, key))
        return site

    def zone(self, site: dict[str, Any]) -> ZoneInfo:
        line = line_of(self.text, "site")
        name = self.text_of(site, "time_zone", line)
        known = available_timezones()
        if name not in known:
            hint = closest(name, sorted(known)) if "/" in name else 'write one like "Asia/Tokyo"'
            hint = hint if len(hint) < 100 else 'write one like "Asia/Tokyo"'
            at = self.line_within("time_zone", line)
            raise self.error(at, "time_zone", f"no such time zone: {name!r}; {hint}")
        return ZoneInfo(name)

    def text_of(
        self, table: dict[str, Any], key: str, line: int, default: str | None = None
    ) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not value.strip():
            if key not in table:
                raise self.error(line, key, f'is missing; write {key} = "…"')
            raise self.error(self.line_within(key, line), key, "write a text in quotes")
        return value


@dataclass(frozen=True, slots=True)
class _Entry:
    """One [[nodes]] table."""

    reader: _Reader
    table: dict[str, Any]
    number: int
    zone: tzinfo

    @property
    def line(self) -> int:
        return line_of(self.reader.text, "nodes", nth=self.number)

    def error(self, key: str, text: str) -> ConfigError:
        at = self.reader.line_within(key, self.line) if key in self.table else self.line
        return self.reader.error(at, key, text)

    def nodes(self) -> Iterator[InstalledNode]:
        self.reader.only(self.table, NODE_KEYS, self.line)
        hall, rack, model = (
            self.reader.text_of(self.table, key, self.line) for key in ("hall", "rack", "model")
        )
        if model not in gpu_models():
            hint = closest(model, list(gpu_models()))
            raise self.error("model", f"no such GPU model: {model!r}; {hint}")
        slots, pflops = self.slots(), self.pflops(model)
        from_us, to_us = self.time_us("from") or 0, self.time_us("to")
        if to_us is not None and to_us <= from_us:
            raise self.error("to", "must be later than from")
        for name in self.names():
            yield InstalledNode(name, hall, rack, model, slots, pflops, from_us, to_us)

    def names(self) -> list[str]:
        given = self.table.get("names")
        patterns = cast("list[Any]", given if isinstance(given, list) else [given or ""])
        names = [name for pattern in patterns for name in expand(str(pattern))]
        for name in names:
            if not _NAME.fullmatch(name):
                raise self.error("names", f'not a name: {name!r}; write "a03n[01-08]" or a list')
        if not names:
            raise self.error("names", 'write "a03n[01-08]", or a list of names')
        return names

    def slots(self) -> tuple[int, ...]:
        given = self.table.get("slots", _DEFAULT_SLOTS)
        if isinstance(given, int) and not isinstance(given, bool) and 0 < given <= _MOST_SLOTS:
            return indexed_slots(given)
        if not isinstance(given, list) or not given:
            raise self.error("slots", 'write a number of GPUs, or a list like ["0000:1b:00.0"]')
        try:
            slots = tuple(parse_slot(str(item)) for item in cast("list[Any]", given))
        except ValueError as error:
            raise self.error("slots", str(error)) from error
        if len(set(slots)) != len(slots):
            raise self.error("slots", "the same address stands there twice")
        return slots

    def pflops(self, model: str) -> float:
        given = self.table.get("pflops_per_gpu")
        if given is None:
            peak = gpu_models()[model].fp16_tflops
            if peak is None:
                raise self.error("pflops_per_gpu", f"the peak of {model} is not known: write it")
            return peak / 1e3
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1_000:
            raise self.error("pflops_per_gpu", f"write a number of PFLOP/s, not {given!r}")
        return float(given)

    def time_us(self, key: str) -> int | None:
        value = self.table.get(key)
        if value is None:
            return None
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time(), self.zone)
        if not isinstance(value, datetime):
            raise self.error(key, "write a date like 2026-01-31, without quotes")
        moment = value if value.tzinfo else value.replace(tzinfo=self.zone)
        return round(moment.timestamp() * 1e6)


def expand(pattern: str) -> list[str]:
    """`a03n[01-08]` as its eight names; what has no range as itself."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) - int(first) > _MOST_NODES:
        return [pattern]
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in expand(f"{head}{number}{tail}")]


def _refuse_overlaps(reader: _Reader, nodes: list[tuple[int, InstalledNode]]) -> None:
    ordered = sorted(nodes, key=lambda item: (item[1].name, item[1].from_us))
    for (first_line, before), (line, after) in pairwise(ordered):
        if before.name != after.name:
            continue
        if before.to_us is None or before.to_us > after.from_us:
            at, other = max(line, first_line), min(line, first_line)
            text = f"{after.name} stands in the entry of line {other} too, for the same time"
            raise reader.error(at, "names", text)


def dump_inventory(inventory: Inventory) -> str:
    """The text of a `site.toml` that reads back as the same inventory."""
    lines = ["[site]"]
    lines += [f"{key} = {_quoted(str(getattr(inventory, key)))}" for key in SITE_KEYS]
    for (hall, rack, model, slots, pflops, from_us, to_us), group in groupby(
        inventory.nodes,
        key=lambda n: (n.hall, n.rack, n.model, n.slots, n.pflops_per_gpu, n.from_us, n.to_us),
    ):
        names = ", ".join(_quoted(node.name) for node in group)
        lines += ["", "[[nodes]]", f"hall = {_quoted(hall)}", f"rack = {_quoted(rack)}"]
        lines += [f"names = [{names}]", f"model = {_quoted(model)}"]
        lines += [f"slots = [{', '.join(_quoted(slot_text(slot)) for slot in slots)}]"]
        lines += [f"pflops_per_gpu = {pflops!r}"]
        bounds = (("from", from_us or None), ("to", to_us))
        lines += [f"{key} = {_moment(us)}" for key, us in bounds if us is not None]
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def _moment(us: int) -> str:
    seconds, rest = divmod(us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
