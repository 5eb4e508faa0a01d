"""Corrections: a record that stands in another's stead.

A record of the source `correction` has the id `SOURCE ID` of the record that
it corrects.  While it is there and not deleted, that record holds nothing,
whatever its source sends of it later; what the correction says holds, by the
same rules as any claim.  One without subjects says that nobody held anything.
"""

from __future__ import annotations

from collectors.contract.topics import Allocation

CORRECTION = "correction"
Key = tuple[str, str]
"""Source and id of a record."""


def correction_id(source: str, key: str) -> str:
    """The id of the correction of a record; sources have no blanks in their names."""
    return f"{source} {key}"


def target_of(key: str) -> Key | None:
    """The record that a correction of this id stands for."""
    source, blank, rest = key.partition(" ")
    return (source, rest) if blank else None


def corrected_by(allocation: Allocation) -> Key | None:
    """The record in whose stead an allocation stands, None where it is no correction; one that is
    deleted names the record that holds again."""
    return target_of(allocation.id) if allocation.source == CORRECTION else None
