"""A fleet over real HTTP: exporters that are away, come back, or speak for the same node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from exporter_pages import dcgm_page, exporter, gpu_labels

from collectors.contract.facts import NodeFacts
from collectors.contract.record import NodeRecord
from collectors.contract.source import BackendUnavailableError, SourceOptions
from collectors.contract.topics import ALLOC, FACTS, GPU, Allocation, topic_specs
from collectors.contract.wire import parse
from collectors.kit.clock import SystemClock
from collectors.kit.sqlite_log import SqliteBus
from collectors.scrape.fleet import Fleet, Receivers
from collectors.scrape.settings import ScrapeSettings
from collectors.scrape.source import ScrapeSource, create
from collectors.scrape.targets import TargetList

FAST = ScrapeSettings(interval_s=1.0, timeout_s=0.9, reload_s=0.05)
VALUES = {"power": 300.0, "energy_mj": 5e6, "clock_mhz": 1400.0, "utilization": 0.5}


def page(node: str, count: int = 1) -> bytes:
    return dcgm_page(
        dict.fromkeys(range(count), VALUES),
        labels=lambda index: gpu_labels(index, Hostname=node, pod="p", namespace="ml"),
    )


class Heard:
    """Everything that a fleet found."""

    def __init__(self) -> None:
        self.records: list[NodeRecord] = []
        self.claims: list[Allocation] = []
        self.facts: list[NodeFacts] = []
        self.changed = asyncio.Event()

    @property
    def receivers(self) -> Receivers:
        return Receivers(
            self._record, allocation=self.claims.append, facts=self.facts.append
        )  # fmt: skip

    def _record(self, record: NodeRecord) -> None:
        self.records.append(record)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for records until it holds."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def nodes(self) -> set[str]:
        return {record.node for record in self.records}


async def test_one_that_is_away_costs_the_others_nothing_and_is_read_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown: list[bytes | int] = [503]
    heard, stop = Heard(), asyncio.Event()
    with exporter(lambda: page("n1", 8)) as good, exporter(lambda: shown[0]) as bad:
        fleet = Fleet(TargetList([good, bad]), SystemClock(), FAST, heard.receivers)
        running = asyncio.create_task(fleet.run(stop))
        await heard.until(lambda: len(heard.records) >= 3 and fleet.counts.failed >= 2)
        assert heard.nodes() == {"n1"}
        shown[0] = page("n2")
        await heard.until(lambda: heard.nodes() == {"n1", "n2"})
        stop.set()
        await running
    away = [record for record in caplog.messages if "exporter_away" in record]
    assert len(away) == 1
    assert "status 503" in away[0]
    first = heard.records[0]
    assert len(first.slots) == 8
    assert [record.sequence for record in heard.records if record.node == "n1"][:3] == [0, 1, 2]
    assert {claim.job for claim in heard.claims} == {"p"}
    assert {facts.node for facts in heard.facts} == {"n1", "n2"}


async def test_two_exporters_of_one_node_do_not_double_its_gpus(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard, stop = Heard(), asyncio.Event()
    with exporter(lambda: page("n1")) as one, exporter(lambda: page("n1")) as two:
        fleet = Fleet(TargetList([one, two]), SystemClock(), FAST, heard.receivers)
        running = asyncio.create_task(fleet.run(stop))
        await heard.until(lambda: len(heard.records) >= 3 and fleet.counts.unusable >= 2)
        stop.set()
        await running
    assert len({record.run for record in heard.records}) == 1
    assert any("exporter_left_out node=n1" in text and "node=NAME" in text
               for text in caplog.messages)  # fmt: skip


async def test_the_file_of_targets_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "targets"
    heard, stop = Heard(), asyncio.Event()
    with ExitStack() as stack:
        urls = [stack.enter_context(exporter(lambda name=name: page(name))) for name in ("a", "b")]
        path.write_text(f"{urls[0]}\n")
        fleet = Fleet(TargetList(path=path), SystemClock(), FAST, heard.receivers)
        running = asyncio.create_task(fleet.run(stop))
        await heard.until(lambda: heard.nodes() == {"a"})
        path.write_text(f"{urls[1]} node=renamed\n")
        await heard.until(lambda: "renamed" in heard.nodes())
        assert set(fleet.labels()) == {"renamed"}
        stop.set()
        await running


async def test_as_a_source_it_publishes_what_it_found(tmp_path: Path) -> None:
    log = SqliteBus(tmp_path / "bus.sqlite", clock=SystemClock())
    await log.create_topics(topic_specs())
    stop = asyncio.Event()
    with exporter(lambda: page("n1", 2)) as url:
        settings = ScrapeSettings(1.0, 0.9, state=tmp_path / "claims.json")
        source = ScrapeSource(TargetList([url]), SystemClock(), settings)
        assert [len(node.slots) for node in source.inventory.nodes] == [2]
        producer = log.producer()
        running = asyncio.create_task(source.run(producer, stop))
        consumer = log.consumer([GPU, ALLOC, FACTS], None)
        await consumer.start()
        found: dict[str, list[bytes]] = {}
        async with asyncio.timeout(20):
            while len(found.get(GPU, [])) < 2 or len(found) < 3:
                for chunk in await consumer.fetch(0.2):
                    found.setdefault(chunk.partition.topic, []).extend(chunk.values)
        stop.set()
        await running
        await consumer.stop()
        await producer.stop()
    await log.close()
    record = parse(found[GPU][0])
    assert (record.node, record.values["power_w"]) == ("n1", [300, 300])
    assert json.loads(found[FACTS][0])["source"] == "scrape"
    assert json.loads(found[ALLOC][0])["source"] == "scrape:n1:kubernetes"
    assert (tmp_path / "claims.json").exists()


def test_options() -> None:
    options = SourceOptions(extra={"urls": "a:9400\nb:9400", "interval": "30"})
    assert create(options, SystemClock()).settings.interval_s == 30
    for extra, says in (({"url": "a"}, "no url"), ({"urls": ""}, "no exporter to read"),
                        ({"urls": "a", "interval": "0.1"}, "every 1 to 600 s")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            create(SourceOptions(extra=extra), SystemClock())
    with pytest.raises(ValueError, match="leave out site"):
        create(SourceOptions(site="x", extra={"urls": "a"}), SystemClock())


def test_no_answer_at_all_is_said_when_a_site_is_wanted() -> None:
    source = create(SourceOptions(extra={"urls": "127.0.0.1:9"}), SystemClock())
    with pytest.raises(BackendUnavailableError, match="None of 1 exporters"):
        _ = source.inventory
