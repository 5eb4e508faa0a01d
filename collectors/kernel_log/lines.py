"""Reads lines of the kernel log, in every form in which they come, into messages of the kernel.

The forms: raw records of `/dev/kmsg`, `dmesg` with levels, with seconds since
boot, with dates or with neither, and what syslog and journald make of them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

_RAW = re.compile(
    r"(?P<level>\d+),(?P<sequence>\d+),(?P<boot_us>\d+),[^;]*;(?P<message>.*)", re.DOTALL
)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_DMESG_LEVEL = re.compile(rf"(?P<facility>\w+)\s*:\s*\w+\s*:\s*(?:(?P<time>{_ISO})\s+)?")
_SYSLOG = re.compile(
    rf"(?:(?P<time>{_ISO})|[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d)\s+\S+\s+(?P<tag>[^\s:\[]+)(?:\[\d+\])?:\s+"
)
_ISO_ALONE = re.compile(rf"(?P<time>{_ISO})\s+")
_PRIORITY = re.compile(r"<(\d+)>")
_BRACKETS = re.compile(r"\[[^\]]*\]\s*")
_KERNEL = 0
"""The facility of what the kernel itself says; programs cannot write with it."""


class LogLine(NamedTuple):
    """A message of the kernel.

    `time_us` is since 1970, `boot_us` since boot; None where the form does not
    say.  `sequence` numbers the records of one boot.
    """

    message: str
    time_us: int | None = None
    boot_us: int | None = None
    sequence: int | None = None


def read_line(text: str) -> LogLine | None:
    """The message of a line; None where it is not the kernel's own, or continues the one before."""
    text = text.rstrip("\n")
    if not text or text[0] == " ":
        return None
    raw = _RAW.fullmatch(text)
    if raw is not None:
        return _of_record(raw)
    return _of_text(text)


def _of_record(raw: re.Match[str]) -> LogLine:
    """Of a raw record; one that a program wrote keeps its number, so that none seems to be lost."""
    own = int(raw["level"]) >> 3 == _KERNEL
    message = _unescaped(raw["message"].partition("\n")[0]) if own else ""
    return LogLine(message, None, int(raw["boot_us"]), int(raw["sequence"]))


def _unescaped(text: str) -> str:
    """The kernel writes what is no printable ASCII as `\\xNN`, in UTF-8."""
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return plain.encode("latin-1", "replace").decode("utf-8", "replace") if plain != text else text


def _of_text(text: str) -> LogLine | None:
    time: str | None = None
    level, syslog, iso = _DMESG_LEVEL.match(text), _SYSLOG.match(text), _ISO_ALONE.match(text)
    if level is not None:
        if level["facility"] != "kern":
            return None
        time, text = level["time"], text[level.end() :]
    elif syslog is not None:
        if syslog["tag"] != "kernel":
            return None
        time, text = syslog["time"], text[syslog.end() :]
    elif iso is not None:
        time, text = iso["time"], text[iso.end() :]
    priority = _PRIORITY.match(text)
    if priority is not None:
        if int(priority[1]) >> 3 != _KERNEL:
            return None
        text = text[priority.end() :]
    brackets = _BRACKETS.match(text)
    message = text[brackets.end() :] if brackets is not None else text
    return LogLine(message, None if time is None else _time_us(time))


def _time_us(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.replace(",", "."))
    except ValueError:
        return None
    # dmesg and rsyslog write the zone; without one a time could be any.
    return None if moment.tzinfo is None else int((moment - _EPOCH).total_seconds() * 1e6)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
