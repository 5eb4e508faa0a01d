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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from collectors.contract.identity import parse_slot, slot_text
from collectors.contract.inventory import InstalledNode, Inventory
from collectors.contract.models import gpu_models
from collectors.contract.site_toml import MOST_NODES, TomlEntry, TomlReader
from collectors.kit.toml_file import closest, line_of, parse_toml, read_text

SITE_KEYS = ("name", "title", "time_zone", "precision", "sparsity", "clock_basis")
NODE_KEYS = ("hall", "rack", "names", "model", "slots", "pflops_per_gpu", "from", "to")
_NAMEPLATE = {"precision": "FP16", "sparsity": "dense", "clock_basis": "boost clock"}
_DEFAULT_SLOTS = 8
_MOST_SLOTS = 64


def indexed_slots(count: int) -> tuple[int, ...]:
    """Slots of GPUs known by index alone: 0000:01:00.0 and on."""
    return tuple(parse_slot(f"0000:{index + 1:02x}:00.0") for index in range(count))


def load_inventory(path: Path) -> Inventory:
    """Reads `site.toml`.  Raises ConfigError with file, line, key and what to write."""
    return parse_inventory(path, read_text(path))


def parse_inventory(path: Path, text: str) -> Inventory:
    """Reads the text of a `site.toml`; `path` is for messages.  Raises ConfigError."""
    table = parse_toml(path, text)
    reader = TomlReader(path, text)
    reader.only(table, ("site", "nodes"), 1)
    site = _site_table(reader, table)
    zone = _zone(reader, site)
    entries = reader.entries(table, "nodes", NODE_KEYS, zone)
    if not entries:
        raise reader.error(1, "nodes", "write at least one [[nodes]] entry")
    nodes: list[tuple[int, InstalledNode]] = []
    for entry in entries:
        nodes += [(entry.line, node) for node in _Nodes(entry).nodes()]
        if len(nodes) > MOST_NODES:
            raise reader.error(entry.line, "names", f"more than {MOST_NODES} nodes")
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


def _site_table(reader: TomlReader, table: dict[str, Any]) -> dict[str, Any]:
    found = table.get("site")
    if not isinstance(found, dict):
        raise reader.error(1, "site", f"write a table [site] with {', '.join(SITE_KEYS[:3])}")
    site = cast("dict[str, Any]", found)
    reader.only(site, SITE_KEYS, line_of(reader.text, "site"))
    return site


def _zone(reader: TomlReader, site: dict[str, Any]) -> ZoneInfo:
    line = line_of(reader.text, "site")
    name = reader.text_of(site, "time_zone", line)
    known = available_timezones()
    if name not in known:
        hint = closest(name, sorted(known)) if "/" in name else 'write one like "Asia/Tokyo"'
        hint = hint if len(hint) < 100 else 'write one like "Asia/Tokyo"'
        at = reader.line_within("time_zone", line)
        raise reader.error(at, "time_zone", f"no such time zone: {name!r}; {hint}")
    return ZoneInfo(name)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """One [[nodes]] table as the nodes that it names."""

    entry: TomlEntry

    def nodes(self) -> Iterator[InstalledNode]:
        entry = self.entry
        hall, rack, model = (entry.text(key) for key in ("hall", "rack", "model"))
        if model not in gpu_models():
            hint = closest(model, list(gpu_models()))
            raise entry.error("model", f"no such GPU model: {model!r}; {hint}")
        slots, pflops = self.slots(), self.pflops(model)
        from_us, to_us = entry.between()
        for name in entry.nodes("names"):
            yield InstalledNode(name, hall, rack, model, slots, pflops, from_us, to_us)

    def slots(self) -> tuple[int, ...]:
        entry = self.entry
        given = entry.table.get("slots", _DEFAULT_SLOTS)
        if isinstance(given, int) and not isinstance(given, bool) and 0 < given <= _MOST_SLOTS:
            return indexed_slots(given)
        if not isinstance(given, list) or not given:
            raise entry.error("slots", 'write a number of GPUs, or a list like ["0000:1b:00.0"]')
        try:
            slots = tuple(parse_slot(str(item)) for item in cast("list[Any]", given))
        except ValueError as error:
            raise entry.error("slots", str(error)) from error
        if len(set(slots)) != len(slots):
            raise entry.error("slots", "the same address stands there twice")
        return slots

    def pflops(self, model: str) -> float:
        given = self.entry.table.get("pflops_per_gpu")
        if given is None:
            peak = gpu_models()[model].fp16_tflops
            if peak is None:
                text = f"the peak of {model} is not known: write it"
                raise self.entry.error("pflops_per_gpu", text)
            return peak / 1e3
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1_000:
            text = f"write a number of PFLOP/s, not {given!r}"
            raise self.entry.error("pflops_per_gpu", text)
        return float(given)


def _refuse_overlaps(reader: TomlReader, nodes: list[tuple[int, InstalledNode]]) -> None:
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
    lines += [f"{key} = {quoted(str(getattr(inventory, key)))}" for key in SITE_KEYS]
    for (hall, rack, model, slots, pflops, from_us, to_us), group in groupby(
        inventory.nodes,
        key=lambda n: (n.hall, n.rack, n.model, n.slots, n.pflops_per_gpu, n.from_us, n.to_us),
    ):
        names = ", ".join(quoted(node.name) for node in group)
        lines += ["", "[[nodes]]", f"hall = {quoted(hall)}", f"rack = {quoted(rack)}"]
        lines += [f"names = [{names}]", f"model = {quoted(model)}"]
        lines += [f"slots = [{', '.join(quoted(slot_text(slot)) for slot in slots)}]"]
        lines += [f"pflops_per_gpu = {pflops!r}"]
        bounds = (("from", from_us or None), ("to", to_us))
        lines += [f"{key} = {_moment(us)}" for key, us in bounds if us is not None]
    return "\n".join([*lines, ""])


def quoted(text: str) -> str:
    """A TOML text in quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'


def _moment(us: int) -> str:
    seconds, rest = divmod(us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
