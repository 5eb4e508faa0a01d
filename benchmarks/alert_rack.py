"""A rack of 64 GPUs loses its cooling: what people are told of it, and when.

    python -m benchmarks.alert_rack [--seeds 1-9] [--learnt 20] [--cold 2] [--after 6]

Each seed is a simulated site of 256 GPUs whose records go straight to the alerts in
the order of their arrival, in lumps of 50 ms.  Per seed one JSON object: every
notice of the thermal family from the fault on, with its seconds after the
fault's first sign (by the simulator's own account) at which it could be sent, and
`before`, incidents that had been told of before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.alert_straight import START_US, Straight, known, simulated
from collectors.contract.source import SourceOptions

SITE, RACK, FAULT = "synthetic:256", "s00001", "rack_pump_failure"
_EVERY_US = 50_000


def measure(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """One seed."""
    scenario = folder / "fault.toml"
    scenario.write_text(
        f'[[event]]\nfault = "{FAULT}"\nat = "{args.learnt}m"\nfor = "{args.cold}m"\n'
        f'rack = "{RACK}"\n'
    )
    options = SourceOptions(
        site=SITE, seed=seed, speed=None, minutes=args.learnt + args.cold + args.after,
        start_us=START_US, truth=folder / "truth",
        extra={"observable": "off", "scenario": str(scenario)},
    )  # fmt: skip
    found = asyncio.run(simulated(options, _EVERY_US))
    (fault,) = [one for one in known(folder / "truth") if one["kind"] == FAULT]
    return {"seed": seed, **told(found, int(fault["first_sign_us"]))}


def told(found: Straight, sign_us: int) -> dict[str, Any]:
    """What people hear."""
    notices, before, heard = list[dict[str, Any]](), list[str](), dict[str, int]()
    for one in found.incidents:
        if one.family != "thermal" or one.notice == heard.get(one.id, 0):
            continue
        heard[one.id] = one.notice
        after_s = (found.made_us[one.id, one.revision] - sign_us) / 1e6
        if after_s < 0:
            before.append(one.title)
            continue
        said = {"after_s": round(after_s, 2), "state": one.state, "title": one.title}
        notices.append({**said, "cause": one.cause, "confidence": round(one.confidence or 0, 2)})
    return {"notices": notices, "before": before}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="1-9", help="first and last")
    parser.add_argument("--learnt", type=int, default=20, help="minutes before the fault")
    parser.add_argument("--cold", type=int, default=2, help="minutes that it lasts")
    parser.add_argument("--after", type=int, default=6, help="minutes after it")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args, seed, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
