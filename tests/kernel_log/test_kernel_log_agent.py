"""The whole agent: driver and kernel log tell of one XID, and one event leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fake_nvml import XID, FakeEvent, FakeNvml, eight_gpus

from collectors.kit.clock import SystemClock

PETAWATCH = str(Path(sys.executable).with_name("petawatch"))
OFF_THE_BUS = (
    b"4,70,5000,-;NVRM: Xid (PCI:0000:13:00): 79, pid='<unknown>', name=<unknown>, "
    b"GPU has fallen off the bus.\n4,71,5001,-;NVRM: GPU 0000:13:00.0: GPU has fallen off the bus.\n"
)
STORM = b"4,%d,6000,-;NVRM: Xid (PCI:0000:10:00): 13, pid=9, name=x, Graphics Exception\n"


def environment(node: FakeNvml, home: Path, log: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PETAWATCH_")}
    return kept | {
        "XDG_STATE_HOME": str(home), "PETAWATCH_AGENT_METRICS_PORT": "0",
        "PETAWATCH_AGENT_KERNEL_LOG_PATH": str(log), "PETAWATCH_AGENT_ATTRIBUTION": "false",
        "LD_LIBRARY_PATH": str(node.library.parent), "FAKE_NVML_STATE": str(node.state),
    }  # fmt: skip


def next_of(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """The next line of a kind."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if kind in found:
            return found
    raise AssertionError(f"it ended without a line of {kind}")


def test_both_sources_tell_and_each_happening_leaves_once(
    nvml_library: Path, tmp_path: Path
) -> None:
    node, log = FakeNvml(tmp_path / "nvml.state", nvml_library), tmp_path / "kmsg"
    os.mkfifo(log)
    device = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    gpus = eight_gpus()
    node.write(gpus)
    process = subprocess.Popen(
        [PETAWATCH, "agent", "--stdout", "--node", "n7"], env=environment(node, tmp_path, log),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        next_of(process, "gpus")
        os.write(device, OFF_THE_BUS + b"".join(STORM % number for number in range(72, 82)))
        # The driver says the same, and then something of its own, by which we see that it has.
        gpus[3].events = [FakeEvent(0.5, XID, 79), FakeEvent(0.6, XID, 48)]
        node.write(gpus, zero_us=SystemClock().monotonic_us())
        told: list[dict[str, Any]] = []
        while not told or told[-1].get("code") != 48:
            told.append(next_of(process, "event")["event"])
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        rest = [json.loads(line) for line in process.stdout]
        told += [line["event"] for line in rest if "event" in line]
    finally:
        process.kill()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
        os.close(device)
    lost = [one for one in told if one.get("code") == 79]
    assert len(lost) == 1
    assert (lost[0]["slot"], lost[0]["action"]) == ("0000:13:00.0", "reboot")
    assert lost[0]["concerns"] == "operator"
    storm = [one for one in told if one.get("code") == 13]
    assert [one.get("count", 1) for one in storm] == [1, 9]
    assert {one["concerns"] for one in storm} == {"tenant"}
    assert [one["source"] for one in told if one.get("code") == 48] == ["driver"]
