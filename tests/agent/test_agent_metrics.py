"""The agent's own endpoint: Prometheus' rules, and nothing for those who ask badly."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_clock import ManualClock
from scripted_node import ScriptedBackend, ScriptedDevice

from collectors.agent.folded import FoldedLog
from collectors.agent.metrics import Family, MetricsServer, exposition, single
from collectors.agent.node_agent import NodeAgent, Receivers
from collectors.agent.outbox import Outbox
from collectors.agent.own_metrics import outbox_families
from collectors.agent.settings import NodeSettings
from collectors.contract.bus import Message


class NoProducer:
    """Never asked."""

    async def start(self) -> None:
        """Nothing to connect to."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Nowhere."""

    async def stop(self) -> None:
        """Nothing to close."""


NAME = re.compile(r"(petawatch_agent|process)(_[a-z0-9]+)+")
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')


def node_agent(clock: ManualClock) -> NodeAgent:
    def nowhere(_: object) -> None:
        """What it finds out is not looked at here."""

    backend = ScriptedBackend([ScriptedDevice(1, {"power_w": 1.0}), ScriptedDevice(2, {})])
    settings = NodeSettings(node="n1", metrics_port=0, kernel_log=False, attribution=False)
    receivers = Receivers(nowhere, nowhere, nowhere, nowhere)
    return NodeAgent(backend, clock, settings, receivers, opened=True)


async def test_the_page_keeps_to_prometheus_rules() -> None:
    node = node_agent(ManualClock())
    await node.agent.tick()
    kinds: dict[str, str] = {}
    for line in node.page().splitlines():
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            if word == "TYPE":
                kinds[name] = rest
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        assert NAME.fullmatch(match[1])
        float(match[3])
        assert kinds[match[1]] == ("counter" if match[1].endswith("_total") else "gauge")
    assert "petawatch_agent_records_total 1" in node.page()
    assert node.page().count('state="ok"} 1') == 2
    assert kinds["petawatch_agent_readings_failed_total"] == "counter"


def test_metrics_that_the_document_names_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
    named = set(re.findall(r"`(petawatch_agent_[a-z_]+|process_[a-z_]+)`", text))
    outbox = Outbox(NoProducer(), ManualClock())
    page = node_agent(ManualClock()).page() + exposition(outbox_families(outbox))
    there = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    assert len(named) > 10
    assert named <= there


@given(st.text(max_size=30))
def test_labels_are_escaped(text: str) -> None:
    line = exposition([Family("a", "b", [({"x": text}, 1)])]).split("\n", 2)[2].removesuffix("\n")
    match = re.fullmatch(r'a\{x="((?:[^"\\\n]|\\["\\n])*)"\} 1', line, re.DOTALL)
    assert match is not None
    back = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], match[1])
    assert back == text


@pytest.fixture
async def port() -> AsyncGenerator[int]:
    server = MetricsServer(lambda: exposition([single("a_total", "b", 3)]), lambda: True)
    address = await server.start("127.0.0.1", 0)
    yield int(address.split(":")[2].split("/")[0])
    await server.stop()


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"a_total 3"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200", b"a_total 3"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200", b""),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200", b"ok"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404", b"/metrics"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405", b"GET only"),
    ],
)
async def test_what_is_answered(request_: bytes, status: bytes, body: bytes, port: int) -> None:
    answer = await asked(port, request_)
    head, _, found = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert body in found
    if request_.startswith(b"HEAD"):
        assert found == b""
    else:
        assert int(head.split(b"Content-Length: ")[1].split()[0]) == len(found)


@pytest.mark.parametrize(
    "request_",
    [b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"GET /metrics HTTP/1.1\r\n",
     b"\x16\x03\x01\r\n\r\n", b""],
    ids=["too long", "never ends", "no HTTP", "nothing"],
)  # fmt: skip
async def test_who_asks_badly_is_let_go(request_: bytes, port: int) -> None:
    assert b"a_total" not in await asked(port, request_)
    assert b"a_total 3" in await asked(port, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_a_port_that_is_taken_costs_the_page_alone(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = MetricsServer(lambda: "", lambda: True)
    assert await server.start("127.0.0.1", port) == ""
    assert "choose another metrics_port" in caplog.text
    await server.stop()


async def test_unwell_when_ticks_do_not_happen() -> None:
    clock = ManualClock()
    node = node_agent(clock)
    assert node.healthy()
    clock.move(11)
    assert not node.healthy()


def test_what_repeats_is_said_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    folded = FoldedLog(logging.getLogger("folded"), clock)
    for _ in range(599):
        folded.warning("late 1", "gpu_late slot=%s", 1)
        clock.move(1)
    folded.warning("late 2", "gpu_late slot=%s", 2)
    assert caplog.messages == ["gpu_late slot=1", "gpu_late slot=2"]
    clock.move(1)
    folded.warning("late 1", "gpu_late slot=%s", 1)
    assert caplog.messages[-1] == "gpu_late slot=1 repeated=599"
    folded.over("late 1")
    folded.warning("late 1", "gpu_late slot=%s", 1)
    assert caplog.messages[-1] == "gpu_late slot=1"
    for key in range(1000):
        folded.warning(str(key), "many")
    assert len(folded) <= 256
