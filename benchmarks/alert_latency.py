"""From a sample to the message of its alert, at a whole centre's size, on Kafka.

    python -m benchmarks.alert_latency --bus kafka://HOST:PORT [--gpus 3672] [--xids 120]
        [--brakes 30] [--settle 75] [--seconds 75] [--seed 1]

The simulator (in real time), `watch` and `notify` are processes of their own, an
HTTP receiver is this one.  Each record is sent at its own moment, as nodes do.
XIDs of programs on GPUs drawn at random are put on `telemetry.events` at random
moments; power brakes on nodes drawn at random are the simulator's (those on idle
nodes hold nothing back, and raise nothing).  Times are from the event, or from
the beginning of the second in which the first sample of a brake lies, to the
message's arrival here, less the rule's own hold.  Claims are left out, since one
job's alerts would be one message.  Neither InfluxDB nor the books are there.
`stages_s` has the median and the 99th percentile of each part of the way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from benchmarks.alert_nodes import simulate
from benchmarks.alert_stages import Written, fired, read_alerts, stages
from benchmarks.records import SITES
from collectors.contract.bus import Message
from collectors.contract.identity import slot_text
from collectors.contract.inventory import InstalledNode
from collectors.contract.topics import EVENTS, Event, topic_specs
from collectors.kit.clock import SystemClock
from collectors.simulator.sites import make_site
from pipeline.bus import open_bus
from pipeline.watch.alerts.rules_file import load_rules

_CLOCK = SystemClock()
_XID, _BRAKE = 31, "power_brake"
_BRAKE_S, _AFTER_S = 12.0, 25.0
_BEGIN_US = 45_000_000
"""From the start of the processes to the simulation's first second."""
_TARGET = """[[targets]]
name = "receiver"
kind = "webhook"
url = "{}"
severity = "warning"
concerns = ["operator", "tenant"]
"""
Rng = np.random.Generator


@contextmanager
def receiver(got: list[tuple[int, dict[str, Any]]]) -> Generator[str]:
    """Takes messages in with the time of their arrival; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((_CLOCK.wall_us(), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def processes(environ: dict[str, str], sender: Sequence[str], log: Path) -> Generator[None]:
    """`watch` and `notify`, and once they are at work the simulator."""
    command = [sys.executable, "-c", "from collectors.cli import main; main()", "pipeline"]
    started: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as out:
        try:
            for role in ("watch", "notify"):
                started += [_role([*command, "--role", role], environ, out)]
            while b"alerts_begin" not in log.read_bytes():
                if any(one.poll() is not None for one in started):
                    raise RuntimeError(log.read_text()[-2_000:])
                asyncio.run(_CLOCK.sleep(0.1))
            started.append(subprocess.Popen(sender, stdout=out, stderr=out))
            yield
        finally:
            for one in started:
                one.terminate()
            for one in started:
                one.wait()


def _role(
    command: Sequence[str], environ: dict[str, str], out: BinaryIO
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environ})


def brakes(
    nodes: Sequence[InstalledNode], count: int, settle_s: float, seconds: float, rng: Rng
) -> tuple[str, dict[str, float]]:
    """A scenario of brakes, at most one a rack, and when each node's begins."""
    by_rack = {(node.hall, node.rack): node.name for node in nodes}
    names = rng.choice(sorted(by_rack.values()), min(count, len(by_rack)), replace=False).tolist()
    begin_s = dict(zip(names, (settle_s + rng.random(len(names)) * seconds).tolist(), strict=True))
    events = [
        f'[[event]]\nfault = "{_BRAKE}"\nat = "{at:.2f}s"\nfor = "{_BRAKE_S}s"\nnode = "{name}"\n'
        for name, at in begin_s.items()
    ]
    return "\n".join(events), begin_s


async def inject(
    url: str, prefix: str, nodes: Sequence[InstalledNode], count: int, seconds: float, rng: Rng
) -> dict[tuple[str, str], int]:
    """Sends XIDs at random moments; gives the time of each, by node and slot."""
    bus = open_bus(url, _CLOCK)
    producer = bus.producer()
    await producer.start()
    every = [(node.name, slot_text(slot)) for node in nodes for slot in node.slots]
    picked: list[int] = rng.choice(len(every), count, replace=False).tolist()
    chosen = [every[at] for at in picked]
    begin_us, sent = _CLOCK.wall_us(), dict[tuple[str, str], int]()
    due: list[float] = np.sort(rng.random(count) * seconds).tolist()
    for (node, slot), due_s in zip(chosen, due, strict=True):
        await _CLOCK.sleep(max(0.0, due_s - (_CLOCK.wall_us() - begin_us) / 1e6))
        event = Event(_CLOCK.wall_us(), node, "xid", slot, code=_XID)
        sent[node, slot] = event.time_us
        await producer.send([Message(prefix + EVENTS, node.encode(), msgspec.json.encode(event))])
    await producer.stop()
    await bus.close()
    return sent


def latencies(
    got: Sequence[tuple[int, dict[str, Any]]],
    xids: dict[tuple[str, str], int],
    braked: Collection[str],
) -> dict[str, dict[str, tuple[int, int]]]:
    """By kind and incident, of those whose opening was told: when its message would have come
    without any delay, and when it came, µs."""
    hold_s = next(rule.steps[0].for_s for rule in load_rules() if rule.name == _BRAKE)
    out: dict[str, dict[str, tuple[int, int]]] = {"xid": {}, _BRAKE: {}}
    for at_us, body in got:
        one = body["incident"]
        if body["kind"] != "opened":
            continue
        rule, subject = one["members"][0]["rule"], one["subject"]
        where = (subject.get("node", ""), subject.get("slot", ""))
        if rule == "xid_of_program" and where in xids:
            out["xid"][one["id"]] = xids[where], at_us
        elif rule == _BRAKE and where[0] in braked:
            first_us = one["members"][0]["since_us"] + (hold_s - 1) * 1_000_000
            out[_BRAKE][one["id"]] = first_us, at_us
    return out


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run."""
    site = SITES.get(args.gpus, f"synthetic:{args.gpus}")
    rng = np.random.default_rng(args.seed)
    nodes = make_site(site).nodes
    prefix = f"latency-{secrets.token_hex(4)}-"
    specs = topic_specs(prefix)
    text, begin_s = brakes(nodes, args.brakes, args.settle, args.seconds, rng)
    scenario, targets, log = folder / "brakes.toml", folder / "notify.toml", folder / "log"
    scenario.write_text(text)
    environ = {
        "PETAWATCH_BUS": args.bus, "PETAWATCH_SITE": site, "PETAWATCH_DATA": str(folder),
        "PETAWATCH_TOPIC_PREFIX": prefix, "PETAWATCH_NOTIFY": str(targets),
    }  # fmt: skip
    bus = open_bus(args.bus, _CLOCK)
    got: list[tuple[int, dict[str, Any]]] = []
    asyncio.run(bus.create_topics(specs))
    with receiver(got) as url:
        targets.write_text(_TARGET.format(url))
        start_us = _CLOCK.wall_us() // 1_000_000 * 1_000_000 + _BEGIN_US
        sender = [
            sys.executable, "-m", "benchmarks.alert_latency", "--bus", args.bus,
            "--simulate", prefix, site, str(start_us), str(scenario),
        ]  # fmt: skip
        with processes(environ, sender, log):
            asyncio.run(_CLOCK.sleep((start_us - _CLOCK.wall_us()) / 1e6 + args.settle))
            xids = asyncio.run(inject(args.bus, prefix, nodes, args.xids, args.seconds, rng))
            asyncio.run(_CLOCK.sleep(_AFTER_S))
    log_of_alerts = asyncio.run(_log_of(args.bus, prefix, [spec.name for spec in specs]))
    return {"gpus": args.gpus, **report(latencies(got, xids, begin_s), log_of_alerts)}


async def _log_of(url: str, prefix: str, names: Sequence[str]) -> list[Written]:
    """The log of alerts; then the topics are removed."""
    bus = open_bus(url, _CLOCK)
    log = await read_alerts(bus, prefix)
    await bus.delete_topics(names)
    await bus.close()
    return log


def report(
    found: dict[str, dict[str, tuple[int, int]]], log: Sequence[Written]
) -> dict[str, dict[str, Any]]:
    """Figures per kind, and of all together."""
    number = fired(log)
    counts = {"xid": number.get("xid_of_program", 0), _BRAKE: number.get(_BRAKE, 0)}
    both = {name: times for some in found.values() for name, times in some.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, some in {**found, "all": both}.items():
        passed = [(came_us - began_us) / 1e6 for began_us, came_us in some.values()]
        quantiles = {
            f"p{p}_s": round(float(np.percentile(passed, p)), 2) if passed else None
            for p in (50, 99, 100)
        }
        count = counts.get(name, sum(counts.values()))
        out[name] = {
            "fired": count, "told": len(some), **quantiles, "stages_s": stages(log, some)
        }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bus", required=True)
    parser.add_argument("--gpus", type=int, default=3_672)
    parser.add_argument("--xids", type=int, default=120)
    parser.add_argument("--brakes", type=int, default=30)
    parser.add_argument("--settle", type=float, default=75.0, help="before the first alert, s")
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--simulate", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.simulate:
        prefix, site, start_us, scenario = args.simulate
        asyncio.run(simulate(args.bus, prefix, site, int(start_us), Path(scenario)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
