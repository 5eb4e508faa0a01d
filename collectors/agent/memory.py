"""Keeps the agent small on machines that are other people's."""

from __future__ import annotations

import ctypes
import gc

_ARENA_MAX = -8
"""M_ARENA_MAX of malloc.h."""


def one_arena() -> None:
    """Has all threads share one heap, where else each would keep a part of its own; glibc only.

    To be called before there are threads: half a megabyte, and heaps that do
    not grow and shrink at every tick.
    """
    try:
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
    except (AttributeError, OSError):
        return


def give_back() -> None:
    """Hands what the start has used and freed back to the system; glibc only.

    Where Python may not keep its bytecode, compiling the NVML bindings alone
    leaves 11 MB behind in the allocator.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return
