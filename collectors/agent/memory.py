"""Keeps the agent small on machines that are other people's."""

from __future__ import annotations

import ctypes
import gc


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
