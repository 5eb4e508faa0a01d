"""`petawatch simulate` from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from collectors.contract.bus import Consumer
from collectors.contract.topics import GPU, topic_specs
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.simulator.commands import simulate
from collectors.simulator.truth import read_truth


def _delimited(data: bytes) -> Iterator[bytes]:
    """The messages of a length-delimited Protobuf file."""
    at = 0
    while at < len(data):
        size = shift = 0
        while data[at] > 0x7F:
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        size |= data[at] << shift
        at += 1
        yield data[at : at + size]
        at += size


def test_records_and_truths_land_in_files(tmp_path: Path):
    file, truth = tmp_path / "records.bin", tmp_path / "truth"
    arguments = [
        "--site",
        "demo",
        "--minutes",
        "0.2",
        "--seed",
        "5",
        "--start-us",
        "1800000000000000",
    ]
    result = CliRunner().invoke(
        simulate, [*arguments, "--records", str(file), "--truth", str(truth)]
    )
    assert result.exit_code == 0, result.output
    records = [parse(message) for message in _delimited(file.read_bytes())]
    assert len(records) == 8 * 12
    physical, observable = read_truth(truth)
    assert physical.sent == observable.samples == {record.node: 12 for record in records}
    again = tmp_path / "again.bin"
    CliRunner().invoke(simulate, [*arguments, "--records", str(again)])
    assert again.read_bytes() == file.read_bytes()


def test_the_bus_is_found_by_its_url(tmp_path: Path):
    file = tmp_path / "bus.db"

    async def create_topics() -> None:
        bus = SqliteBus(file, clock=SystemClock())
        await bus.create_topics(topic_specs(gpu_partitions=1))
        await bus.close()

    async def records() -> int:
        bus = SqliteBus(file, clock=SystemClock(), read_only=True)
        consumer = bus.consumer([GPU], None)
        await consumer.start()
        count = sum(await _ends(consumer))
        await consumer.stop()
        await bus.close()
        return count

    asyncio.run(create_topics())
    result = CliRunner().invoke(
        simulate,
        ["--site", "demo", "--minutes", "0.05", "--speed", "max", "--bus", f"sqlite:///{file}"],
    )
    assert result.exit_code == 0, result.output
    assert asyncio.run(records()) == 8 * 3


async def _ends(consumer: Consumer) -> list[int]:
    return list((await consumer.end_offsets()).values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "either --bus URL or --records FILE"),
        (["--bus", "sqlite:///x", "--speed", "max"], "--minutes"),
        (["--bus", "sqlite:///x", "--speed", "fast"], "write a number above 0, or max"),
        (["--site", "atlantis", "--minutes", "1", "--records", "-"], "aisc-phase1"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(arguments: list[str], says: str):
    result = CliRunner().invoke(simulate, arguments)
    assert result.exit_code == 2
    assert says in result.output
