"""Which partition a key goes to, on every bus."""

from __future__ import annotations

import zlib


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key.  It must never change: order and commits hang on it."""
    return zlib.crc32(key) % partitions
