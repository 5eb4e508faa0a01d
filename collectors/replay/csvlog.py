"""nvidia-smi CSV logs, and logs in their manner: the header says what is in them."""

from __future__ import annotations

import csv
import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import IO

from collectors.contract.catalogue import CATALOGUE
from collectors.contract.identity import parse_slot
from collectors.contract.record import SlotLabels
from collectors.replay.quantities import IDENTITY, NAMES, absent, as_metric, quantity
from collectors.replay.samples import Rejects, Sample, synthetic_slot

_log = logging.getLogger(__name__)
_UNIT = re.compile(r"^(?P<name>.*?)\s*(?:\[(?P<unit>[^\]]*)\])?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US, _LATEST_US = 946_684_800_000_000, 4_102_444_800_000_000
"""2000 and 2100: a stamp outside is a broken row, and must not decide where the others go."""
_LONGEST_LINE = 65_536
_HEADER_WITHIN = 20


def open_text(path: Path) -> IO[str]:
    """A text file, or a gzip of one, told by its first bytes."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def parse_time(text: str, zone: tzinfo) -> int:
    """µs since 1970 of `2023/07/30 17:28:02.589`, ISO 8601, or s or ms since 1970.

    `zone` holds where the text has none.  Raises ValueError.
    """
    time_us = _time(text.strip(), zone)
    if not _EARLIEST_US <= time_us < _LATEST_US:
        raise ValueError(f"a time no log has: {text.strip()!r}")
    return time_us


def _time(text: str, zone: tzinfo) -> int:
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        whole, _, part = text.partition(".")
        return int(whole) * 1_000_000 + int(part[:6].ljust(6, "0"))
    if re.fullmatch(r"\d{13}", text):
        return int(text) * 1000
    moment = datetime.fromisoformat(text.replace("/", "-"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    elapsed = moment - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


@dataclass(frozen=True, slots=True)
class Header:
    """Where a log keeps what: identity by our word, metrics as (column, name, unit)."""

    width: int
    identity: Mapping[str, int]
    metrics: Sequence[tuple[int, str, str]]
    unknown: Sequence[str]


def learn_header(cells: Sequence[str]) -> Header:
    """What the columns are; names that are not known are kept to be told of.

    Raises ValueError where there is no time or nothing to measure.
    """
    identity: dict[str, int] = {}
    metrics: dict[str, tuple[int, str, str]] = {}
    unknown: list[str] = []
    for column, cell in enumerate(cells):
        match = _UNIT.match(cell.strip())
        name = match["name"].lower() if match else ""
        unit = (match["unit"] if match else None) or ""
        known = NAMES.get(name)
        if known is None and name in CATALOGUE.by_name:
            known = (name, "")
        if name in IDENTITY:
            identity.setdefault(IDENTITY[name], column)
        elif known is None:
            unknown.append(cell.strip())
        elif known[0] not in metrics or name == "power.draw.instant":
            # Instantaneous power goes before `power.draw`, which newer drivers average.
            metrics[known[0]] = (column, known[0], unit or known[1])
    if "time" not in identity or not metrics:
        raise ValueError(f"not an nvidia-smi log: its first line is {','.join(cells)[:120]!r}")
    return Header(len(cells), identity, list(metrics.values()), unknown)


class CsvLog:
    """A `Reader`.  Times without a zone are in `zone`; `model` stands in where the log names none."""

    def __init__(self, zone: tzinfo, model: str = "") -> None:
        self._zone, self._model = zone, model
        self._told: set[str] = set()

    def __call__(self, path: Path, rejects: Rejects) -> Iterator[Sample]:
        """See `Reader`."""
        with open_text(path) as file:
            # nvidia-smi quotes nothing, and one stray quote must not swallow the rows behind it.
            rows = csv.reader(_lines(file, path.name, rejects), quoting=csv.QUOTE_NONE)
            header, line = self._first_header(rows, path, rejects)
            for number, cells in enumerate(rows, start=line + 1):
                place = f"{path.name}:{number}"
                try:
                    if len(cells) == header.width:
                        yield self._sample(header, cells, rejects, place)
                        continue
                    reason, text = "columns", f"{len(cells)} of {header.width} cells"
                except ValueError as error:
                    reason, text = "broken", str(error)
                if _is_header(cells):
                    header = self._learn(cells, path)
                elif any(cell.strip() for cell in cells):
                    rejects.add(reason, f"{place}: {text}")

    def _first_header(
        self, rows: Iterator[list[str]], path: Path, rejects: Rejects
    ) -> tuple[Header, int]:
        """The header and its line; what stands before it (a shell's word, a blank) is passed over."""
        first: list[str] = []
        for number, cells in enumerate(rows, start=1):
            if _is_header(cells):
                return self._learn(cells, path), number
            first = first or cells
            if any(cell.strip() for cell in cells):
                rejects.add("before the header", f"{path.name}:{number}")
            if number >= _HEADER_WITHIN:
                break
        return self._learn(first, path), 1  # refused, with the first line as the reason

    def _learn(self, cells: Sequence[str], path: Path) -> Header:
        """The header, also of a log that was appended to another; unknown names are told once."""
        header = learn_header(cells)
        for name in header.unknown:
            if name not in self._told:
                self._told.add(name)
                _log.info("column_unknown file=%s name=%s", path.name, name)
        return header

    def _sample(self, header: Header, cells: Sequence[str], rejects: Rejects, place: str) -> Sample:
        columns = header.identity
        texts = {
            word: "" if absent(cells[column]) else cells[column].strip()
            for word, column in columns.items()
        }
        time_us = parse_time(texts["time"], self._zone)
        if texts.get("slot"):
            slot = parse_slot(texts["slot"])
        else:
            slot = synthetic_slot(int(texts.get("index") or 0))
        labels = SlotLabels(
            slot,
            texts.get("uuid", ""),
            texts.get("model") or self._model,
            texts.get("serial", ""),
        )
        values: dict[str, float] = {}
        for column, name, unit in header.metrics:
            cell = cells[column]
            if not absent(cell):
                try:
                    values[name] = as_metric(name, quantity(cell, unit))
                except ValueError as error:
                    # One cell is left out and told of; the row's other values stand.
                    rejects.add("cell", f"{place}: {name}: {error}")
        return Sample(time_us, labels, values, texts.get("node") or None)


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a row names columns: the time must be among them."""
    names = [cell.partition("[")[0].strip().lower() for cell in cells]
    return any(IDENTITY.get(name) == "time" for name in names) and len(names) > 1


def _lines(file: IO[str], name: str, rejects: Rejects) -> Iterator[str]:
    """Lines of bounded length without NUL, so that a broken file cannot fill the memory."""
    try:
        while line := file.readline(_LONGEST_LINE):
            yield line.replace("\0", "")
    except (EOFError, OSError, zlib.error) as error:
        rejects.add("truncated", f"{name}: {error}")
