"""Which rules fire at a site at which nothing is wrong: all shipped rules over simulated days.

    python -m benchmarks.alert_quiet [--site demo] [--hours 24] [--interval 1] [--seed 1]
        [--telemetry-faults none]

Jobs begin and end and nodes are in maintenance; with `--telemetry-faults all`
records are lost, late, repeated, out of order or broken and clocks go wrong, which
some rules are there to tell of.  No broker: what `watch` would read from the log
goes straight to its alerts.  One JSON object: of each rule how often it fired and
on whom first, beside what there was to be found, by the simulator's own account.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.alert_straight import START_US, Straight, known, simulated
from collectors.contract.source import SourceOptions

_EVERY_US = 30_000_000


def measure(args: argparse.Namespace, truth: Path) -> dict[str, Any]:
    """One site."""
    options = SourceOptions(
        site=args.site, seed=args.seed, speed=None, minutes=args.hours * 60, start_us=START_US,
        interval_s=args.interval, truth=truth,
        extra={"observable": "off", "telemetry_faults": args.telemetry_faults},
    )  # fmt: skip
    found = asyncio.run(simulated(options, _EVERY_US))
    return {**report(found), "known": counted(truth)}


def report(found: Straight) -> dict[str, Any]:
    """What fired, by rule."""
    rules = dict[str, dict[str, Any]]()
    for alert in found.alerts:
        row = rules.setdefault(
            alert.rule, {"severity": alert.severity, "fired": 0, "subjects": dict[str, int]()}
        )
        row["fired"] += 1
        row["subjects"].setdefault(alert.subject.name, (alert.at_us - START_US) // 1_000_000)
    for row in rules.values():
        row["subjects"] = dict(list(row["subjects"].items())[:8])
    return {"rules": rules, "incidents": len({one.id for one in found.incidents})}


def counted(truth: Path) -> dict[str, list[str]]:
    """What there was to be found: kinds, how many, and the first places of each."""
    faults = known(truth)
    kinds = Counter(one["kind"] for one in faults)
    return {
        kind: [
            str(number),
            *(str(one.get("subjects", ""))[:60] for one in faults if one["kind"] == kind),
        ][:6]
        for kind, number in kinds.items()
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--site", default="demo")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--telemetry-faults", default="none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
