"""What `petawatch doctor` shows: each part contributes checks by an entry point.

An entry point of `petawatch.checks` is a function without arguments that
returns a list of Check and raises nothing; it may take some seconds.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Verdict(Enum):
    """How a check went: `warn` is worth knowing, `fail` keeps something from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One thing looked at: what was found, and what to do about it ("" for nothing)."""

    name: str
    verdict: Verdict
    found: str
    todo: str = ""
