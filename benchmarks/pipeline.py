"""CPU of the pipeline per GPU-sample: records in, line-protocol bytes and live frames out.

    python -m benchmarks.pipeline [--gpus 3672,30000,100000] [--seconds 20] [--json]

`store` decodes, validates, keeps minutes and renders every raw line and, as in
operation, its minutes once per flush of 10 s.  `watch` decodes, follows the
state and makes one frame and detail per second.  `reference` is the plain
pipeline that one would write first, on the same samples in the same run:
json.loads, dicts, one `Point` per GPU-sample.  No broker, no database.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from typing import Any

from influxdb_client.client.write.point import Point

from benchmarks.records import Second, simulated_seconds
from collectors.contract.bus import Chunk, Partition
from collectors.contract.catalogue import COUNTER_ABSENT
from collectors.contract.inventory import Inventory
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.kit.partitions import partition_of
from pipeline.health import HealthBoard
from pipeline.series.port import WriteBatch
from pipeline.series.requests import requests_of
from pipeline.store.intake import Intake
from pipeline.store.validate import TimeRules
from pipeline.store.worker import MOST_RAW
from pipeline.watch.role import Watch, WatchOptions

FLUSH_S = 10
PARTITIONS = 12
REFERENCE_SAMPLES = 4_000


class NoBus:
    """The watch asks for nothing of a bus here: its messages are only made."""


def _chunks(second: Second, offset: int) -> list[Chunk]:
    """What one fetch of a second brings: a chunk for each of 12 partitions."""
    rows: list[list[int]] = [[] for _ in range(PARTITIONS)]
    keys = [node.encode() for node in second.nodes]
    for row, key in enumerate(keys):
        rows[partition_of(key, PARTITIONS)].append(row)
    return [
        Chunk(
            Partition("telemetry.gpu", number),
            range(offset, offset + len(own)),
            [second.times_us[row] + 20_000 for row in own],
            [keys[row] for row in own],
            [second.records[row] for row in own],
        )
        for number, own in enumerate(rows)
        if own
    ]


def _rendered(batch: WriteBatch) -> int:
    """Bytes of all requests that InfluxDB would get."""
    return sum(len(body) for _, body in requests_of(batch, []))


def time_store(seconds: Sequence[Second]) -> tuple[float, int, int]:
    """CPU-seconds, GPU-samples and bytes of lines."""
    intake = Intake(1, TimeRules(), raw_interval_s=1.0)
    fetches = [_chunks(second, at * len(second.records)) for at, second in enumerate(seconds)]
    intake.take_in(fetches[0])
    intake.snapshot()
    samples = size = 0
    began = time.process_time()
    for number, chunks in enumerate(fetches[1:], start=1):
        samples += intake.take_in(chunks)
        if number % FLUSH_S == 0 or number == len(seconds) - 1:
            size += _rendered(intake.snapshot().batch)
        elif intake.raw_rows > MOST_RAW:
            size += _rendered(WriteBatch(intake.take_raw()))
    return time.process_time() - began, samples, size


def time_watch(seconds: Sequence[Second], inventory: Inventory) -> tuple[float, int]:
    """CPU-seconds and GPU-samples."""
    clock = SystemClock()
    bus: Any = NoBus()
    watch = Watch(bus, lambda: inventory, WatchOptions(), clock, HealthBoard("watch", "b", clock))
    fetches = [_chunks(second, 0) for second in seconds]
    watch.take_in(fetches[0])
    samples = 0
    began = time.process_time()
    for chunks in fetches[1:]:
        samples += watch.take_in(chunks)
        watch.messages()
    return time.process_time() - began, samples


def _as_json(second: Second, samples: int) -> list[bytes]:
    """The same samples as a plain agent would send them: one JSON object per node."""
    out: list[bytes] = []
    for data in second.records[: math.ceil(samples / 8)]:
        record = parse(data)
        rows = [
            {
                "slot": slot,
                **{
                    name: values[at]
                    for name, values in record.values.items()
                    if values[at] != COUNTER_ABSENT and not math.isnan(values[at])
                },
            }
            for at, slot in enumerate(record.slots)
        ]
        message = {"node": record.node, "time_us": record.time_us, "gpus": rows}
        out.append(json.dumps(message).encode())
    return out


def time_reference(second: Second) -> tuple[float, int]:
    """CPU-seconds and GPU-samples of the plain pipeline."""
    messages = _as_json(second, REFERENCE_SAMPLES)
    minute: dict[tuple[str, int, int, str], list[float]] = {}
    samples = 0
    began = time.process_time()
    for message in messages:
        record = json.loads(message)
        for gpu in record["gpus"]:
            point: Any = Point("gpu")  # its methods are untyped
            point.tag("node", record["node"]).tag("slot", gpu["slot"])
            for name, value in gpu.items():
                if name == "slot":
                    continue
                point.field(name, value)
                key = (record["node"], gpu["slot"], record["time_us"] // 60_000_000, name)
                low, high, _ = minute.get(key, (value, value, value))
                minute[key] = [min(low, value), max(high, value), value]
            point.time(record["time_us"] * 1000)
            point.to_line_protocol()
            samples += 1
    return time.process_time() - began, samples


def measure(gpus: int, seconds: int) -> dict[str, float]:
    """One row of results: µs of CPU per GPU-sample."""
    inventory, ticks = simulated_seconds(gpus, seconds + 1)
    store_s, store_samples, size = time_store(ticks)
    watch_s, watch_samples = time_watch(ticks, inventory)
    reference_s, reference_samples = time_reference(ticks[-1])
    store_us, watch_us = store_s / store_samples * 1e6, watch_s / watch_samples * 1e6
    reference_us = reference_s / reference_samples * 1e6
    both_us = store_us + watch_us
    return {
        "gpus": gpus,
        "samples": store_samples,
        "store_us": round(store_us, 3),
        "watch_us": round(watch_us, 3),
        "both_us": round(both_us, 3),
        "reference_us": round(reference_us, 2),
        "ratio": round(reference_us / both_us, 1),
        "line_bytes": round(size / store_samples, 1),
    }


def main() -> None:
    """Prints a table, or with `--json` one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", default="3672,30000,100000")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: list[dict[str, float]] = []
    for text in arguments.gpus.split(","):
        results.append(measure(int(text), arguments.seconds))
        if not arguments.json:
            print("  ".join(f"{name}={value}" for name, value in results[-1].items()))
    if arguments.json:
        print(json.dumps({"benchmark": "pipeline", "results": results}))


if __name__ == "__main__":
    main()
