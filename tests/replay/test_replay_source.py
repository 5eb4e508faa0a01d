"""A recording becomes records: every row, in time, with the agent's integrals."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path

import pytest

from collectors.contract.bus import BusUnavailableError, Message
from collectors.contract.record import NodeRecord, Origin
from collectors.contract.source import SourceOptions
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.replay.recording import Recording
from collectors.replay.source import ReplaySource, create

CAPTURES = Path(__file__).parents[1] / "captures"
NOW_US = 1_790_000_000_000_000
SECOND_US = 1_000_000


class StillClock:
    """Time goes on only by sleeping."""

    def __init__(self) -> None:
        self.elapsed_us = 0
        self.on_sleep: Callable[[], None] = lambda: None

    def wall_us(self) -> int:
        """As slept."""
        return NOW_US + self.elapsed_us

    def monotonic_us(self) -> int:
        """As slept."""
        return self.elapsed_us

    async def sleep(self, seconds: float) -> None:
        """Moves."""
        self.elapsed_us += round(seconds * 1e6)
        self.on_sleep()
        await asyncio.sleep(0)


class Kept:
    """A bus that keeps what it gets, with when; away for the first `away` attempts."""

    def __init__(self, clock: StillClock, away: int = 0) -> None:
        self.clock, self.away = clock, away
        self.messages: list[Message] = []
        self.sent_us: list[int] = []

    async def start(self) -> None:
        """Nothing to do."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Keeps."""
        if self.away:
            self.away -= 1
            raise BusUnavailableError("off")
        self.messages += messages
        self.sent_us += [self.clock.wall_us()] * len(messages)

    async def stop(self) -> None:
        """Nothing to do."""

    def records(self) -> list[NodeRecord]:
        """As read back."""
        return [parse(message.value) for message in self.messages]


def source(
    *paths: Path, clock: StillClock | None = None, speed: float | None = None, keep: bool = False
) -> ReplaySource:
    recording = Recording(paths, zone=UTC, node="n1", model="H100-SXM")
    return ReplaySource(recording, clock or StillClock(), speed=speed, keep_time=keep)


def written(tmp_path: Path, rows: Sequence[tuple[float, int, float, float]]) -> Path:
    """A log of (second, GPU, utilisation in %, W)."""
    path = tmp_path / "log.csv"
    lines = ["timestamp,index,utilization.gpu [%],power.draw [W]"]
    lines += [f"{1_700_000_000 + second:.3f},{gpu},{use},{watt}" for second, gpu, use, watt in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_every_row_and_every_value_arrives() -> None:
    """float32 of what was written is what is read: 390.78 stays 390.78."""
    path = CAPTURES / "nanogpt_8gpu.csv"
    clock = StillClock()
    bus = Kept(clock)
    await source(path, clock=clock, keep=True).run(bus, asyncio.Event())
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    got = {
        (record.time_us, slot >> 8): (temperature, use, power)
        for record in bus.records()
        for slot, temperature, use, power in zip(
            record.slots, record.values["gpu_temperature_c"],
            record.values["gpu_utilization"], record.values["power_w"], strict=True,
        )
    }  # fmt: skip
    assert len(got) == len(rows) == 160
    for stamp, gpu, temperature, use, power in rows:
        second, ms = stamp[17:23].split(".")
        time_us = 1_758_682_620_000_000 + (int(second) * 1000 + int(ms)) * 1000
        time_us += (int(stamp[14:16]) - 57) * 60 * SECOND_US
        exact = struct.unpack("<f", struct.pack("<f", float(power)))[0]
        assert got[time_us, int(gpu) + 1] == (float(temperature), float(use) / 100, exact)


async def test_a_run_of_records() -> None:
    clock = StillClock()
    bus = Kept(clock)
    await source(CAPTURES / "nanogpt_8gpu.csv", clock=clock).run(bus, asyncio.Event())
    records = bus.records()
    assert {record.origin for record in records} == {Origin.REPLAYED}
    assert [record.sequence for record in records] == list(range(20))
    assert len({record.run for record in records}) == 1
    assert {record.label_epoch for record in records} == {0}
    assert list(records[0].values["observed_us"]) == [0] * 8
    assert {label.model for label in records[0].labels} == {"H100-SXM"}
    assert {message.key for message in bus.messages} == {b"n1"}
    span_us = records[-1].time_us - records[0].time_us
    assert set(records[-1].values["observed_us"]) == {span_us}
    assert set(records[-1].values["active_us"]) == {span_us}


async def test_energy_is_integrated_from_power(tmp_path: Path) -> None:
    path = written(tmp_path, [(second, 0, 50, 100.0 * second) for second in range(11)])
    *_, last = source(path).records(0)
    assert last.values["energy_mj"] == [5_000_000]


def test_gaps_are_unobserved(tmp_path: Path) -> None:
    seconds = [0.0, 1.0, 2.0, 3.0, 4.0, 12.0, 13.0, 17.5]
    path = written(tmp_path, [(second, 0, 100, 100) for second in seconds])
    *_, last = source(path).records(0)
    assert last.values["observed_us"] == [int((4 + 1 + 4.5) * SECOND_US)]
    assert last.values["energy_mj"] == [int((4 + 1 + 4.5) * 100_000)]


def test_gpus_whose_rows_have_their_own_stamps(tmp_path: Path) -> None:
    """nvidia-smi stamps each GPU's row by itself: no gap, no end of an epoch, no down time."""
    rows = [(second + gpu * 0.004, gpu, 100, 100.0) for second in range(5) for gpu in range(4)]
    records = list(source(written(tmp_path, rows)).records(0))
    assert len(records) == 20
    assert {record.label_epoch for record in records} == {0}
    assert [record.values["observed_us"] for record in records[-4:]] == [[4 * SECOND_US]] * 4
    assert [len(record.labels) for record in records] == [1] * 4 + [0] * 16


def test_rows_of_one_stamp_are_all_kept(tmp_path: Path) -> None:
    path = written(tmp_path, [(0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 3), (1, 0, 0, 4)])
    records = list(source(path).records(0))
    assert [record.values["power_w"] for record in records] == [[1], [2], [3], [4]]
    assert [record.time_us % SECOND_US for record in records] == [0, 1, 2, 0]


def test_a_log_faster_than_its_own_stamps_has_no_gaps(tmp_path: Path) -> None:
    """Four rows a second, stamped in whole seconds."""
    rows = [(second, 0, 50, 100.0) for second in range(20) for _ in range(4)]
    *_, last = source(written(tmp_path, rows)).records(0)
    assert last.values["observed_us"] == [19 * SECOND_US + 3]
    assert last.values["active_us"] == last.values["observed_us"]
    assert last.values["energy_mj"][0] == pytest.approx(1_900_000, abs=1)


async def test_rows_that_could_not_be_sent_are_counted(tmp_path: Path) -> None:
    clock = StillClock()
    path = written(tmp_path, [(second, 0, 100, 100) for second in range(5)])
    replay = ReplaySource(Recording([path], zone=UTC), clock, speed=None)
    stop = asyncio.Event()
    bus = Kept(clock, away=1)
    # The bus is away, and while the replay waits to try again it is told to stop.
    clock.on_sleep = stop.set
    await replay.run(bus, stop)
    assert replay.unsent == 5
    assert bus.messages == []


def test_rows_that_go_back_are_left_out_and_named(tmp_path: Path) -> None:
    path = written(tmp_path, [(0, 0, 0, 1), (5, 0, 0, 2), (3, 0, 0, 3), (6, 0, 0, 4)])
    replay = source(path)
    assert replay.survey.rejects.counts == {"out of order": 1}
    assert [r.values["power_w"] for r in replay.records(0)] == [[1], [2], [4]]


def test_two_files_are_one_timeline(tmp_path: Path) -> None:
    first = written(tmp_path, [(0, 0, 100, 1), (1, 0, 100, 2)]).rename(tmp_path / "b.csv")
    second = written(tmp_path, [(100, 0, 100, 3), (101, 0, 100, 4)]).rename(tmp_path / "a.csv")
    records = list(source(second, first).records(0))
    assert [r.values["power_w"] for r in records] == [[1], [2], [3], [4]]
    assert records[-1].values["observed_us"] == [2 * SECOND_US]


@pytest.mark.parametrize("speed", [1.0, 10.0, None, 0.5])
async def test_speed_and_shift(tmp_path: Path, speed: float | None) -> None:
    """The last row is now when it is sent; none is sent before its time."""
    path = written(tmp_path, [(second, 0, 100, 100) for second in range(61)])
    clock = StillClock()
    bus = Kept(clock)
    await source(path, clock=clock, speed=speed).run(bus, asyncio.Event())
    assert clock.elapsed_us == pytest.approx(60 * SECOND_US / speed if speed else 0, abs=60_000)
    times = [record.time_us for record in bus.records()]
    assert len(times) == 61
    late_us = [sent - time for sent, time in zip(bus.sent_us, times, strict=True)]
    assert min(late_us) >= -60_000
    if speed != 0.5:
        assert late_us[-1] == pytest.approx(0, abs=60_000)
    arrivals = [message.arrival_us for message in bus.messages]
    assert arrivals == ([None] * 61 if speed in {1.0, 0.5} else times)


async def test_keep_time_keeps_it_and_carries_the_arrival() -> None:
    clock = StillClock()
    bus = Kept(clock)
    path = CAPTURES / "nanogpt_8gpu.csv"
    await source(path, clock=clock, keep=True, speed=1.0).run(bus, asyncio.Event())
    assert bus.records()[0].time_us == 1_758_682_623_946_000
    assert [m.arrival_us for m in bus.messages] == [r.time_us for r in bus.records()]


async def test_an_absent_bus_is_tried_again(tmp_path: Path) -> None:
    clock = StillClock()
    bus = Kept(clock, away=3)
    path = written(tmp_path, [(second, 0, 100, 100) for second in range(3)])
    await source(path, clock=clock).run(bus, asyncio.Event())
    assert len(bus.messages) == 3
    assert clock.elapsed_us == 7 * SECOND_US


async def test_stop_ends_it(tmp_path: Path) -> None:
    path = written(tmp_path, [(second * 100, 0, 100, 100) for second in range(100)])
    replay = ReplaySource(Recording([path], zone=UTC), SystemClock(), speed=1.0)
    stop = asyncio.Event()
    running = asyncio.create_task(replay.run(Kept(StillClock()), stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(running, 10)


def test_inventory_is_what_was_read() -> None:
    [node] = source(CAPTURES / "nanogpt_8gpu.csv").inventory.nodes
    assert (node.name, len(node.slots), node.model) == ("n1", 8, "H100-SXM")
    assert node.pflops_per_gpu == pytest.approx(0.989, abs=0.001)
    mig = ReplaySource(Recording([CAPTURES / "telegraf_a100-sxm4-v12.xml"], zone=UTC), StillClock())
    [node] = mig.inventory.nodes
    assert len(node.slots) == 1
    assert node.pflops_per_gpu == pytest.approx(0.312, abs=0.001)


def test_entry_point_refuses_what_it_does_not_know() -> None:
    path = CAPTURES / "nanogpt_8gpu.csv"
    made = create(SourceOptions(path=path, extra={"model": "H100-SXM"}), StillClock())
    assert made.origin is Origin.REPLAYED
    assert next(iter(made.survey.nodes)) == "nanogpt_8gpu"
    with pytest.raises(ValueError, match="takes: "):
        create(SourceOptions(path=path, extra={"modle": "H100-SXM"}), StillClock())
    with pytest.raises(ValueError, match="Give a file"):
        create(SourceOptions(), StillClock())
    with pytest.raises(ValueError, match="no site"):
        create(SourceOptions(path=path, site="demo"), StillClock())


def command(*options: str) -> subprocess.CompletedProcess[str]:
    petawatch = Path(sys.executable).with_name("petawatch")
    return subprocess.run(
        [petawatch, "replay", *options], capture_output=True, text=True, check=False, timeout=60
    )


def test_command_prints_what_was_read() -> None:
    path = str(CAPTURES / "nanogpt_8gpu.csv")
    done = command(path, "--stdout", "--speed", "max", "--keep-time", "--node", "g150")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 20
    first = lines[0]
    assert (first["time"], first["node"]) == ("2025-09-24T02:57:03.946Z", "g150")
    assert first["gpus"][0]["power_w"] == 390.78
    assert "uuid" not in first["gpus"][0]
    assert "160 of 160 rows" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--speed", "fast"], "max"), (["--speed", "0"], "max"), (["--zone", "Nowhere"], "UTC"),
     (["--model", "H1000"], "mean"), ([], "--stdout")],
)  # fmt: skip
def test_command_refuses_with_a_sentence(options: list[str], says: str) -> None:
    extra = ["--stdout"] if options else []
    done = command(str(CAPTURES / "nanogpt_8gpu.csv"), *options, *extra)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
