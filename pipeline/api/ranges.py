"""Times, ranges and resolutions as requests write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pipeline.api.problems import ProblemError

Resolution = Literal["auto", "raw", "minute"]
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
RAW_SPAN_US = 20 * MINUTE_US
"""Automatic resolution gives samples up to here, and minutes beyond."""
MAX_POINTS = 1_500
"""Points per series that automatic resolution gives at most."""
MAX_MINUTES = 20_160
"""Minutes (two weeks) that `resolution=minute` gives in one call at most."""
MAX_RAW_VALUES = 1_000_000
"""Values that `resolution=raw` gives in one call at most; `next` says where to go on."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def parse_time(text: str, name: str) -> int:
    """µs since 1970 of ISO-8601 (UTC where it names no zone) or seconds since 1970.

    Raises ProblemError (422).
    """
    try:
        if _NUMBER.fullmatch(text):
            whole, _, part = text.partition(".")
            # By digits, not by float: a µs must come out as it went in.
            return int(whole) * 1_000_000 + int(f"{part:0<6}"[:6] or 0)
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except (ValueError, OverflowError) as error:
        raise ProblemError(
            422,
            f"{name}: {text!r} is no time. Write it as 2026-11-24T06:00:00Z, or as seconds since 1970.",
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def time_text(time_us: int) -> str:
    """ISO-8601 in UTC, to the µs."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


@dataclass(frozen=True, slots=True)
class Range:
    """from_us ≤ time < to_us, read as samples (`step` 0) or in steps of minutes."""

    from_us: int
    to_us: int
    step: int

    @property
    def from_minute(self) -> int:
        """The first minute."""
        return self.from_us // MINUTE_US

    @property
    def to_minute(self) -> int:
        """The minute after the last."""
        return -(-self.to_us // MINUTE_US)


def make_range(
    from_text: str | None,
    to_text: str | None,
    resolution: Resolution,
    *,
    now_us: int,
    raw_keep_us: int,
) -> Range:
    """The range asked for; by default the last 15 minutes.  Raises ProblemError (422)."""
    to_us = parse_time(to_text, "to") if to_text else now_us + 1
    from_us = parse_time(from_text, "from") if from_text else to_us - 15 * MINUTE_US
    if not 0 <= from_us < to_us < 2**62:
        raise ProblemError(422, "from must lie before to, and both after 1970.")
    span_us = to_us - from_us
    if resolution == "raw":
        return Range(from_us, to_us, 0)
    if resolution == "minute":
        if span_us > MAX_MINUTES * MINUTE_US:
            raise ProblemError(
                422,
                f"resolution=minute gives at most {MAX_MINUTES} minutes in one call. "
                "Ask for a shorter range, or write resolution=auto.",
            )
        return Range(from_us, to_us, 1)
    if span_us <= RAW_SPAN_US and from_us >= now_us - raw_keep_us:
        return Range(from_us, to_us, 0)
    return Range(from_us, to_us, max(1, -(-span_us // (MAX_POINTS * MINUTE_US))))
