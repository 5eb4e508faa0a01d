"""A fixed piece of work by which hours of a machine, and machines, can be compared.

    python -m benchmarks.yardstick

It is of the kind that an agent does in a tick (calls into a C library, bytes to
numbers, numbers to dicts and back to bytes), and never changes: a benchmark
that gives its figure in yardsticks too says the same in a slow hour as in a fast
one.  In a loop it finds its caches warm; a process that does it once a second
finds them cold, as an agent does.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
import time

_ROUNDS = 300
_LOOPS = 60
_EVERY_S = 1.0


def work() -> int:
    """Some 0.4 ms in a loop on a server of 2024; returns the bytes that it has made."""
    library = ctypes.CDLL(None)
    absolute = library.abs
    numbers, pack = struct.Struct("=IQd"), struct.Struct("<3d").pack
    data, made = bytearray(numbers.pack(186, 390_780, 0.97)), 0
    for _ in range(_ROUNDS):
        field, milliwatts, ratio = numbers.unpack(data)
        row = {"power_w": milliwatts / 1000, "ratio": ratio, "field": float(absolute(field))}
        usual = {name: value for name, value in row.items() if 0 <= value <= 1e6}
        made += len(pack(*usual.values()))
    return made


def in_a_loop_us() -> float:
    """CPU µs of one piece of work with warm caches: the least of many."""
    best_ns = sys.maxsize
    for _ in range(_LOOPS):
        began_ns = time.thread_time_ns()
        work()
        best_ns = min(best_ns, time.thread_time_ns() - began_ns)
    return best_ns / 1000


def start() -> subprocess.Popen[bytes]:
    """A process that does the work once a second until it is killed."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.yardstick", "-"])


def main() -> None:
    """One figure; with an argument the work, once a second, without end."""
    if len(sys.argv) == 1:
        print(f"{in_a_loop_us():,.0f} µs CPU in a loop")
        return
    while True:
        work()
        time.sleep(_EVERY_S)


if __name__ == "__main__":
    main()
