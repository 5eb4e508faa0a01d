"""Size and CPU of the wire per GPU-sample, against the same samples as JSON rows.

    python -m benchmarks.wire [--gpus 1952,3672] [--seconds 5] [--json]

Bytes: one record raw, and in zstd over batches of 64 records, as a producer
sends them.  `encode_us` is an agent's (one record at a time, standard library
alone), `decode_us` the pipeline's (a whole fetch to columns, layouts learnt),
`parse_us` the ordinary Protobuf parser's, which any other consumer may use.
JSON is one object per node with a dict per GPU, by orjson; its `decode_us`
ends in the same columns.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import cramjam
import numpy as np
import orjson

from benchmarks.records import simulated_seconds
from collectors.contract.catalogue import CATALOGUE, COUNTER_ABSENT, Kind
from collectors.contract.record import NodeRecord
from collectors.contract.wire import encode, parse
from pipeline.decode.reader import Reader
from pipeline.decode.slots import SlotTable

_BATCH = 64
_LEAST_RUNS = 3


def cpu_us(work: Callable[[], object], samples: int) -> float:
    """CPU µs per GPU-sample of `work`, the best of some runs after one that is not counted."""
    work()
    best_s = math.inf
    for _ in range(_LEAST_RUNS):
        began = time.process_time()
        work()
        best_s = min(best_s, time.process_time() - began)
    return best_s / samples * 1e6


def zstd_bytes(values: Sequence[bytes]) -> int:
    """What the values take in zstd at its usual level, in batches."""
    batches = [b"".join(values[at : at + _BATCH]) for at in range(0, len(values), _BATCH)]
    return sum(len(bytes(cramjam.zstd.compress(batch, 3))) for batch in batches)


def rows_of(record: NodeRecord) -> dict[str, Any]:
    """The record as a plain JSON pipeline would have it; absent values left out."""
    gpus: list[dict[str, Any]] = [{"slot": slot} for slot in record.slots]
    for name, column in record.values.items():
        gauge = CATALOGUE.by_name[name].kind is Kind.GAUGE
        for gpu, value in zip(gpus, column, strict=True):
            if gauge and not math.isnan(value):
                gpu[name] = round(value, CATALOGUE.by_name[name].decimals)
            elif not gauge and value != COUNTER_ABSENT:
                gpu[name] = value
    return {"node": record.node, "time_us": record.time_us, "run": record.run,
            "sequence": record.sequence, "gpus": gpus}  # fmt: skip


def columns_of(texts: Sequence[bytes]) -> dict[str, Any]:
    """JSON texts to the columns that the columnar reader gives."""
    gpus = [gpu for text in texts for gpu in orjson.loads(text)["gpus"]]
    columns: dict[str, Any] = {}
    for metric in CATALOGUE:
        absent, kind = (
            (math.nan, np.float32) if metric.kind is Kind.GAUGE else (COUNTER_ABSENT, np.uint64)
        )
        columns[metric.name] = np.array([gpu.get(metric.name, absent) for gpu in gpus], kind)
    return columns


def measure(gpus: int, seconds: int) -> dict[str, Any]:
    """One row of results."""
    _, ticks = simulated_seconds(gpus, seconds)
    values = [record for tick in ticks for record in tick.records]
    records = [parse(value) for value in values]
    samples = sum(len(record.slots) for record in records)
    rows = [rows_of(record) for record in records]
    texts = [orjson.dumps(row) for row in rows]
    reader = Reader(SlotTable())
    found: dict[str, Any] = {"gpus": gpus, "gpu_samples": samples, "metrics": len(CATALOGUE)}
    found["wire"] = {
        "bytes": sum(map(len, values)) / samples,
        "zstd_bytes": zstd_bytes(values) / samples,
        "encode_us": cpu_us(lambda: [encode(record) for record in records], samples),
        "decode_us": cpu_us(lambda: reader.read(values), samples),
        "parse_us": cpu_us(lambda: [parse(value) for value in values], samples),
    }
    found["json"] = {
        "bytes": sum(map(len, texts)) / samples,
        "zstd_bytes": zstd_bytes(texts) / samples,
        "encode_us": cpu_us(lambda: [orjson.dumps(row) for row in rows], samples),
        "decode_us": cpu_us(lambda: columns_of(texts), samples),
    }
    ratio = ("bytes", "zstd_bytes", "encode_us", "decode_us")
    found["json_to_wire"] = {key: found["json"][key] / found["wire"][key] for key in ratio}
    return found


def rounded(value: Any) -> Any:
    """Figures to four digits, as they are printed."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        return {key: rounded(item) for key, item in items.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Prints a line per size; with --json the last line is one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", default="1952,3672")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    results = [rounded(measure(int(size), given.seconds)) for size in given.gpus.split(",")]
    for row in results:
        for kind in ("wire", "json", "json_to_wire"):
            figures = "  ".join(f"{name}={value}" for name, value in row[kind].items())
            print(f"gpus={row['gpus']:<8}{kind:<14}{figures}", flush=True)
    if given.as_json:
        print(json.dumps({"benchmark": "wire", "results": results}))


if __name__ == "__main__":
    main()
