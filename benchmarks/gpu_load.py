"""A counted load on one GPU, in a process of its own: what `benchmarks.gpu` measures.

    python -m benchmarks.gpu_load KIND [--size 8192] [--seconds 10] [--duty 1.0]

Prints `ready`, waits for a line, works, and prints one line of JSON: how many
operations, for how long, and how long each period's work took.  The GPU is the
first that `CUDA_VISIBLE_DEVICES` names.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median

from benchmarks.gpu_blas import KINDS, CudaUnavailableError, Products

_PERIOD_S = 0.1
_WARM_UP = 20


def per_product_s(products: Products) -> float:
    """How long one takes, once libraries and clocks have warmed up."""
    products.launch(_WARM_UP)
    products.wait()
    began = time.perf_counter()
    products.launch(_WARM_UP)
    products.wait()
    return (time.perf_counter() - began) / _WARM_UP


def work(products: Products, seconds: float, duty: float) -> dict[str, float]:
    """Periods of equal work, each as long as `duty` of a period, the rest idle."""
    each = max(1, round(duty * _PERIOD_S / per_product_s(products)))
    products.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0
    took: list[float] = []
    while (now := time.perf_counter()) - began < seconds:
        products.launch(each)
        products.wait()
        took.append(time.perf_counter() - now)
        done += each
        if duty < 1:
            time.sleep(max(0.0, _PERIOD_S - took[-1]))
    return {
        "operations": done * products.operations, "seconds": time.perf_counter() - began,
        "step_s": median(took), "steps": len(took), "busy_share": sum(took) / seconds,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--duty", type=float, default=1.0)
    chosen = parser.parse_args(arguments)
    try:
        products = Products(KINDS[chosen.kind], chosen.size)
        result = work(products, chosen.seconds, chosen.duty)
    except CudaUnavailableError as error:
        sys.exit(str(error))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
