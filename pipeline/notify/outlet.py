"""One target's worker: what is due, whether anybody wants it now, until the target has it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from collectors.contract.alerts import Control, Delivery, Incident, Subject
from collectors.contract.bus import BusUnavailableError, Message, Producer
from collectors.contract.inventory import Inventory
from collectors.contract.topics import dumps
from collectors.kit.clock import Clock
from pipeline.health import HealthBoard
from pipeline.notify.alertmanager import AlertmanagerSender
from pipeline.notify.desk import Desk, Due
from pipeline.notify.errors import TargetRefusedError, TargetUnavailableError
from pipeline.notify.notice import Notice
from pipeline.notify.quiet import Quiet
from pipeline.notify.senders import Sender
from pipeline.notify.targets import AlertmanagerTarget, AnyTarget

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_REFUSALS = 3
"""A refusal may come of a target's own trouble: it is asked so often before it is believed."""


@dataclass(frozen=True, slots=True)
class NotifyOptions:
    """How the notifier works; `old_h` is the age beyond which nobody is told any more."""

    prefix: str = ""
    base_url: str = ""
    old_h: float = 24.0
    retry_s: float = 1.0
    longest_retry_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Office:
    """What all outlets share; `topic` is where deliveries are written."""

    desk: Desk
    quiet: Quiet
    producer: Producer
    topic: str
    inventory: Callable[[], Inventory]
    options: NotifyOptions
    clock: Clock
    board: HealthBoard


class Outlet:
    """Sends a target what it lacks, in order; a target that is away keeps only its own waiting."""

    def __init__(self, target: AnyTarget, sender: Sender, office: Office) -> None:
        self._target, self._sender = target, sender
        self._office = office
        self._desk, self._quiet = office.desk, office.quiet
        self._options, self._clock, self._board = office.options, office.clock, office.board
        self._look = asyncio.Event()
        self._tests: deque[Control] = deque(maxlen=10)
        self._refresh_us = 0

    def look(self) -> None:
        """There may be something to do."""
        self._look.set()

    def test(self, control: Control) -> None:
        """Somebody wants a test message; `control.incident` may name one target."""
        if self._target.tested(control.incident):
            self._tests.append(control)
            self.look()

    async def run(self) -> None:
        """Works until it is cancelled."""
        if isinstance(self._sender, AlertmanagerSender):
            told = self._desk.open_at(self._target.name)
            self._sender.keep(self._notice(one, "opened") for one in told)
        while True:
            while self._tests:
                await self._test(self._tests.popleft())
            await self._refresh()
            if not await self._next():
                await self._wait()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._look.wait()
        self._look.clear()

    async def _refresh(self) -> None:
        if not isinstance(self._target, AlertmanagerTarget):
            return
        now_us = self._clock.monotonic_us()
        if now_us >= self._refresh_us and isinstance(self._sender, AlertmanagerSender):
            self._refresh_us = now_us + int(self._target.refresh_s * 1e6)
            await self._sender.refresh()

    async def _next(self) -> bool:
        """Deals with the first notice that can be dealt with; whether there was one."""
        name, waiting = self._target.name, 0
        for due in list(self._desk.due(name)):
            outcome = self._outcome(due)
            if outcome == "wait":
                waiting += 1
                continue
            self._board.set("notify_waiting", self._desk.waiting(name), target=name)
            if outcome is None:
                await self._deliver(due)
            elif outcome == "unwanted":
                self._desk.take_delivery(self._delivery(due.incident, "refused"))
            else:
                self._board.add("notify_not_sent", 1, target=name, why=outcome)
                await self._write(self._delivery(due.incident, outcome))
            return True
        self._board.set("notify_waiting", waiting, target=name)
        return False

    def _outcome(self, due: Due) -> str | None:
        """None where it is to be sent now; `wait` while people want quiet; else why it never is."""
        incident, now_us = due.incident, self._clock.wall_us()
        if due.kind == "resolved":
            if not (self._target.resolved and (due.told_before or self._target.wants(incident))):
                return "unwanted"
        elif not self._target.wants(incident):
            return "unwanted"
        if now_us - due.bus_us > self._options.old_h * 3.6e9 and not due.told_before:
            return "too_old"
        if due.told_before and due.kind == "resolved":
            return None
        why = self._quiet.why(incident, now_us, self._office.inventory())
        if why is None:
            return None
        return why if due.ended else "wait"

    async def _deliver(self, due: Due) -> None:
        if due.maybe_repeated:
            self._board.add("notify_repeats", 1, target=self._target.name)
        notice = self._notice(due.incident, due.kind, maybe_repeated=due.maybe_repeated)
        await self._write(self._delivery(due.incident, "sending"))
        await self._write(await self._attempt(notice))

    async def _attempt(self, notice: Notice) -> Delivery:
        """Tries until the target has it, or has refused it for good."""
        name, refusals = self._target.name, 0

        async def say(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._board.add("notify_failures", 1, target=name)
            self._board.set("notify_target_down", 1, target=name)
            _log.warning("notify_failed target=%s attempt=%d %s", name, state.attempt_number, error)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type((TargetUnavailableError, TargetRefusedError)),
            wait=wait_exponential_jitter(
                multiplier=self._options.retry_s, max=self._options.longest_retry_s
            ),
            sleep=self._clock.sleep,
            before_sleep=say,
            reraise=True,
        )
        attempts = 0
        async for attempt in retrying:
            with attempt:
                attempts = attempt.retry_state.attempt_number
                try:
                    await self._sender.send(notice)
                except TargetRefusedError as error:
                    refusals += 1
                    if refusals < _REFUSALS:
                        raise
                    self._board.add("notify_refused", 1, target=name)
                    _log.error("notify_refused target=%s key=%s %s", name,
                               notice.idempotency_key, error)  # fmt: skip
                    return self._delivery(notice.incident, "refused", attempts, str(error))
        self._board.set("notify_target_down", 0, target=name)
        self._board.add("notify_sent", 1, target=name)
        return self._delivery(notice.incident, "sent", attempts)

    async def _test(self, control: Control) -> None:
        incident = test_incident(control.id, control.at_us, control.actor)
        notice = self._notice(incident, "test")
        try:
            await self._sender.send(notice)
        except (TargetUnavailableError, TargetRefusedError) as error:
            delivery = self._delivery(incident, "refused", 1, str(error))
        else:
            delivery = self._delivery(incident, "sent")
        await self._write(delivery)

    def _notice(self, incident: Incident, kind: str, *, maybe_repeated: bool = False) -> Notice:
        site = self._office.inventory()
        zone, url = site.time_zone, self._options.base_url
        return Notice(incident, kind, site.title, url, zone, maybe_repeated)

    def _delivery(
        self, incident: Incident, outcome: str, attempts: int = 1, detail: str = ""
    ) -> Delivery:
        now_us = self._clock.wall_us()
        name = self._target.name
        return Delivery(name, incident.id, incident.notice, outcome, now_us, attempts, detail)

    async def _write(self, delivery: Delivery) -> None:
        """Into the log, however long that takes: until then nothing else is told here."""
        message = Message(self._office.topic, delivery.key, dumps(delivery))
        while True:
            try:
                await self._office.producer.send([message])
            except BusUnavailableError:
                self._board.add("bus_unavailable")
                await self._clock.sleep(1.0)
            else:
                self._desk.take_delivery(delivery)
                return


def test_incident(name: str, at_us: int, actor: str) -> Incident:
    """What a test message tells of."""
    return Incident(
        id=f"test-{name}",
        state="open",
        severity="info",
        title="test message",
        family="pipeline",
        cause="",
        subject=Subject("pipeline", "notify"),
        opened_us=at_us,
        changed_us=at_us,
        revision=1,
        notice=1,
        text=f"A test message, asked for by {actor}. Nothing is wrong.",
    )
