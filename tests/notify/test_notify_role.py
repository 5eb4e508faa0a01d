"""The notifier on a real bus with a real receiver: all told, once, in order, whatever restarts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import SMTP
from notify_tools import GPU, SITE, Receiver, incident, receiver, targets_file

from collectors.contract.alerts import Control, Delivery, Incident, Subject, parse_alert_record
from collectors.contract.bus import Bus, Message
from collectors.contract.topics import ALERTS, ALLOC, CONTROL, Allocation, dumps, topic_specs
from collectors.contract.topics import Subject as Held
from collectors.kit.clock import SystemClock
from pipeline.bus import open_bus
from pipeline.health import HealthBoard
from pipeline.notify.outlet import NotifyOptions
from pipeline.notify.role import Notifier
from pipeline.notify.senders import signature
from pipeline.notify.targets import Secrets, load_targets

_CLOCK = SystemClock()
_FAST = NotifyOptions(base_url="https://watch.example", retry_s=0.01, longest_retry_s=0.05)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    made = open_bus(f"sqlite:///{tmp_path}/bus.db", _CLOCK)
    await made.create_topics(topic_specs())
    yield made
    await made.close()


async def say(bus: Bus, *records: Incident | Control | Allocation | Delivery) -> None:
    topics = {Control: CONTROL, Allocation: ALLOC}
    producer = bus.producer()
    await producer.start()
    await producer.send(
        [Message(topics.get(type(one), ALERTS), one.key, dumps(one)) for one in records]  # type: ignore[arg-type]
    )
    await producer.stop()


async def deliveries(bus: Bus) -> list[Delivery]:
    """All that the log has, in order."""
    consumer = bus.consumer([ALERTS], None)
    await consumer.start()
    found: list[Delivery] = []
    while chunks := await consumer.fetch(0.3):
        for chunk in chunks:
            for key, value in zip(chunk.keys, chunk.values, strict=True):
                record = parse_alert_record(bytes(key), bytes(value))
                if isinstance(record, Delivery):
                    found.append(record)
    await consumer.stop()
    return found


@asynccontextmanager
async def running(
    bus: Bus, file: Path, options: NotifyOptions = _FAST, environ: dict[str, str] | None = None
) -> AsyncGenerator[HealthBoard]:
    board, stop = HealthBoard("notify", "a", _CLOCK), asyncio.Event()
    secrets = Secrets(environ or {})
    targets = load_targets(file, environ or {})
    notifier = Notifier(bus, lambda: SITE, targets, secrets, options, _CLOCK, board)
    task = asyncio.create_task(notifier.run(stop))
    try:
        yield board
    finally:
        stop.set()
        await task


async def until(board: HealthBoard, name: str, count: float) -> None:
    async with asyncio.timeout(60):
        while board.total(name) < count:
            await _CLOCK.sleep(0.01)


def hook(folder: Path, told: Receiver, more: str = "") -> Path:
    text = f'[[targets]]\nname = "on-call"\nkind = "webhook"\nurl = "{told.url}"\n{more}'
    return targets_file(folder, text)


async def test_each_change_of_state_is_told_once_over_restarts(bus: Bus, tmp_path: Path) -> None:
    with receiver() as told:
        file = hook(tmp_path, told)
        await say(bus, incident(), incident(revision=2, gpus=3))
        async with running(bus, file):
            await told.wait(1)
            await say(bus, incident(revision=3, gpus=4))  # nothing that people must hear
            await say(bus, incident(notice=2, revision=4, gpus=8))
            await told.wait(2)
        async with running(bus, file):
            await say(bus, incident(notice=3, revision=5, state="resolved"))
            await told.wait(3)
        async with running(bus, file) as board:
            await say(bus, incident("i2"))
            await told.wait(4)
            assert board.total("notify_repeats") == 0
        keys = [("i1/1", "opened"), ("i1/2", "worse"), ("i1/3", "resolved"), ("i2/1", "opened")]
        assert told.sent() == keys
        first = told.bodies()[0]
        assert first["incident"]["gpus"] == 3
        assert first["url"] == "https://watch.example/alerts/i1"


async def test_a_target_that_is_down_loses_nothing_and_holds_nobody_up(
    bus: Bus, tmp_path: Path
) -> None:
    with receiver(*[503] * 6) as slow, receiver() as other:
        text = "".join(
            f'[[targets]]\nname = "{name}"\nkind = "webhook"\nurl = "{one.url}"\n'
            for name, one in (("slow", slow), ("other", other))
        )
        file = targets_file(tmp_path, text)
        async with running(bus, file) as board:
            await say(bus, incident(), incident("i2"))
            await other.wait(2)
            await say(bus, incident(notice=2, revision=2, state="resolved"))
            await slow.wait(3)
            assert board.value("notify_failures", target="slow") == 6
        wanted = [("i1/1", "opened"), ("i2/1", "opened"), ("i1/2", "resolved")]
        assert sorted(slow.sent()) == sorted(wanted)
        assert slow.sent().index(wanted[0]) < slow.sent().index(wanted[2])
        assert other.sent() == wanted


async def test_what_a_crash_may_have_sent_is_sent_again_and_counted(
    bus: Bus, tmp_path: Path
) -> None:
    # As a process leaves the log that dies between the receiver's answer and `sent`.
    await say(bus, incident(), Delivery("on-call", "i1", 1, "sending", 1))
    with receiver() as told:
        async with running(bus, hook(tmp_path, told)) as board:
            await until(board, "notify_sent", 1)
            assert board.value("notify_repeats", target="on-call") == 1
        assert told.sent() == [("i1/1", "opened")]


async def test_a_refusal_is_believed_at_last_and_written_down(bus: Bus, tmp_path: Path) -> None:
    with receiver(422, 422, 422) as told:
        async with running(bus, hook(tmp_path, told)):
            await say(bus, incident())
            await say(bus, incident("i2"))
            await told.wait(1)
        assert told.sent() == [("i2/1", "opened")]
    refused = [one for one in await deliveries(bus) if one.outcome == "refused"]
    assert [(one.incident, one.attempts) for one in refused] == [("i1", 3)]
    assert refused[0].detail == "HTTP 422: said no"


async def test_silences_hold_back_and_let_go(bus: Bus, tmp_path: Path) -> None:
    now_us = _CLOCK.wall_us()
    silence = Control("silence", "s1", "operator", now_us, {"node": "n[12]"}, from_us=0)
    window = Allocation(
        "file", "w", "", "", "", (Held("n1"), Held("n2")), 0, kind="maintenance"
    )  # fmt: skip
    rack = Subject("rack", "A/r1", "A", "r1")
    with receiver() as told:
        file = hook(tmp_path, told)
        await say(bus, silence, window)
        await say(bus, incident(), incident("i2"), incident("i2", notice=2, state="resolved"))
        await say(bus, incident("i3", subject=rack))
        async with running(bus, file) as board:
            await until(board, "notify_not_sent", 2)
            assert told.sent() == []
            ended = Control("silence", "s1", "operator", now_us, {"node": "n[12]"}, deleted=True)
            await say(bus, ended)
            over = Allocation(
                "file", "w", "", "", "", (Held("n1"),), 0, now_us, kind="maintenance"
            )  # fmt: skip
            await say(bus, over)
            await told.wait(2)
        assert sorted(told.sent()) == [("i1/1", "opened"), ("i3/1", "opened")]
    outcomes = {(one.incident, one.outcome) for one in await deliveries(bus)}
    assert ("i2", "silenced") in outcomes


async def test_a_silence_of_one_tenant_hides_nothing_that_hits_another(
    bus: Bus, tmp_path: Path
) -> None:
    silence = Control("silence", "s1", "operator", 1, {"tenant": "acme"}, from_us=0)
    with receiver() as told:
        await say(bus, silence, incident(), incident("i2", tenants=("acme", "other")))
        async with running(bus, hook(tmp_path, told)):
            await told.wait(1)
        assert told.sent() == [("i2/1", "opened")]


@pytest.mark.parametrize(
    ("more", "told_of"),
    [
        ('severity = "critical"', ["i1/1"]),
        ('families = ["thermal"]', []),
        ('tenants = ["ac*"]', ["i1/1", "i2/1"]),
        ('tenants = ["b*"]', []),
        ('concerns = ["tenant"]', ["i3/1"]),
        ('concerns = ["tenant", "operator"]', ["i1/1", "i2/1", "i3/1"]),
    ],
)
async def test_a_target_is_told_of_what_it_asked_for(
    bus: Bus, tmp_path: Path, more: str, told_of: Sequence[str]
) -> None:
    last = incident("z", concerns="operator")
    with receiver() as told, receiver() as all_of_it:
        rest = (
            f'\n[[targets]]\nname = "all"\nkind = "webhook"\nurl = "{all_of_it.url}"\n'
            'concerns = ["operator", "tenant"]'
        )
        file = hook(tmp_path, told, more + rest)
        await say(bus, incident(), incident("i2", severity="warning"))
        await say(bus, incident("i3", concerns="tenant"), last)
        async with running(bus, file) as board:
            await all_of_it.wait(4)
            async with asyncio.timeout(60):
                while board.value("notify_waiting", target="on-call") != 0:
                    await _CLOCK.sleep(0.01)
        assert [key for key, _ in told.sent() if not key.startswith("z")] == told_of


async def test_nobody_is_called_for_what_is_long_over(bus: Bus, tmp_path: Path) -> None:
    await say(bus, incident())
    with receiver() as told:
        options = NotifyOptions(old_h=0.0)
        async with running(bus, hook(tmp_path, told), options) as board:
            await until(board, "notify_not_sent", 1)
        assert told.sent() == []
    assert [one.outcome for one in await deliveries(bus)] == ["too_old"]


async def test_a_signed_body_can_be_checked(bus: Bus, tmp_path: Path) -> None:
    key = tmp_path / "hook.key"
    key.write_text("s3cret\n", encoding="utf-8")
    with receiver() as told:
        async with running(bus, hook(tmp_path, told, f'secret_file = "{key}"')):
            await say(bus, incident())
            await told.wait(1)
        headers, body = told.got[0]
    wanted = signature("s3cret", headers["x-petawatch-timestamp"], body)
    assert headers["x-petawatch-signature"] == wanted
    assert headers["idempotency-key"] == "i1/1"


async def test_a_test_message_asked_for_on_the_bus(bus: Bus, tmp_path: Path) -> None:
    with receiver() as told:
        await say(bus, Control("notify_test", "old", "operator", 1), incident())
        async with running(bus, hook(tmp_path, told)):
            await told.wait(1)
            await say(bus, Control("notify_test", "t1", "operator (kim)", _CLOCK.wall_us()))
            await told.wait(2)
        assert told.sent() == [("i1/1", "opened"), ("test-t1/1", "test")]
        assert "operator (kim)" in told.bodies()[1]["incident"]["text"]


async def test_a_test_runs_no_command_that_is_not_named(bus: Bus, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with receiver() as told:
        text = f'[[targets]]\nname = "drain"\nkind = "command"\nargv = ["/usr/bin/tee", "-a", "{ran}"]\n'
        text += f'[[targets]]\nname = "hook"\nkind = "webhook"\nurl = "{told.url}"\n'
        async with running(bus, targets_file(tmp_path, text)) as board:
            await say(bus, incident())
            await until(board, "notify_sent", 2)
            await say(bus, Control("notify_test", "all", "kim", _CLOCK.wall_us()))
            await told.wait(2)
            await say(bus, Control("notify_test", "one", "kim", _CLOCK.wall_us(), incident="drain"))
            async with asyncio.timeout(60):
                while "test-one" not in ran.read_text():
                    await _CLOCK.sleep(0.05)
    assert "test-all" not in ran.read_text()


async def test_a_command_gets_the_incident_and_is_run_again_until_it_succeeds(
    bus: Bus, tmp_path: Path
) -> None:
    out, once = tmp_path / "out", tmp_path / "once"
    code = (
        "import sys, pathlib, json; once = pathlib.Path(sys.argv[1]); body = json.load(sys.stdin)\n"
        "if not once.exists(): once.touch(); sys.exit('not yet')\n"
        "pathlib.Path(sys.argv[2]).write_text(body['incident']['subject']['node'])"
    )
    argv = [sys.executable, "-c", code, str(once), str(out)]
    text = f'[[targets]]\nname = "drain"\nkind = "command"\nargv = {argv!r}\ncauses = ["off_bus"]\n'
    async with running(bus, targets_file(tmp_path, text)) as board:
        await say(bus, incident(), incident("i2", cause="other"))
        await say(bus, incident(notice=2, revision=2, state="resolved"))
        await until(board, "notify_sent", 1)
        assert board.value("notify_failures", target="drain") == 1
    assert out.read_text() == GPU.node
    assert [one.incident for one in await deliveries(bus) if one.outcome == "sent"] == ["i1"]


class _Mail(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[str, str]] = []
        self.came = asyncio.Event()

    def handle_message(self, message: Any) -> None:
        plain = next(part for part in message.walk() if part.get_content_type() == "text/plain")
        self.got.append((str(message["subject"]), plain.get_payload(decode=True).decode()))


@pytest.mark.parametrize("form", ["text", "html"])
async def test_mail_through_a_real_smtp_sink(bus: Bus, tmp_path: Path, form: str) -> None:
    handler = _Mail()
    loop = asyncio.get_running_loop()
    sink: Any = await loop.create_server(lambda: SMTP(handler), "127.0.0.1", 0)
    try:
        port = sink.sockets[0].getsockname()[1]
        url = f"mailto://127.0.0.1:{port}?from=watch@example.org&to=ops@example.org&format={form}"
        text = '[[targets]]\nname = "mail"\nkind = "message"\nurl_env = "MAIL_URL"\n'
        file = targets_file(tmp_path, text)
        async with running(bus, file, environ={"MAIL_URL": url}) as board:
            told: dict[str, Any] = {"runbook": "gpu-lost", "action": "reset the GPU"}
            told["tenants"] = ("acme <&>",)
            await say(bus, incident(**told))
            await until(board, "notify_sent", 1)
    finally:
        sink.close()
        await sink.wait_closed()
    ((subject, body),) = handler.got
    assert subject == "[Critical] N1/0: off the bus"
    lines = [line.strip() for line in body.splitlines()]
    for line in ("Tenants: acme <&>", "Do: reset the GPU", "Key: i1/1"):
        assert line in lines
    assert any(line.endswith("runbooks/gpu-lost") for line in lines)
