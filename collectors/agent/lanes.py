"""Reads devices in threads so that one that hangs costs the others nothing.

One thread reads all devices in turn, which is the cheapest.  A device that has
not answered within a share of the tick is left to its thread, and another one
goes on with the rest in the same tick; a second such device, and each of the
rest gets a thread.  A device that was slow twice is read in a thread of its own
until it has been quick for a while.  A device is never asked again while a call
to it is under way, so there is at most one thread per device and one more.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from collectors.agent.answers import Answer, answer_of
from collectors.agent.threads import tell
from collectors.agent.windows import joined
from collectors.contract.flop import FlopWindow
from collectors.contract.source import (
    Device,
    Sample,
)
from collectors.kit.clock import Clock

_SLOW_TIMES = 2
_QUICK_TIMES = 10
_AT_ONCE_S, _LATER_AT_MOST = 0.02, 64


@dataclass(slots=True)
class _Round:
    """One tick's questions."""

    ended: Callable[[], object]
    left: int
    inquire: bool
    answers: dict[int, Answer] = field(default_factory=dict[int, Answer])
    took_us: dict[int, int] = field(default_factory=dict[int, int])
    queue: deque[Device] = field(default_factory=deque[Device])
    closed: bool = False
    over: threading.Lock = field(default_factory=threading.Lock)
    """Let go at the end."""
    watched: bool = False
    """Whether the loop's thread stands still for the end, which then needs not be told."""


@dataclass(slots=True)
class _Pace:
    """How quickly a device answers."""

    slow: int = 0
    quick: int = 0
    own_lane: bool = False

    def took(self, *, slow: bool) -> None:
        self.slow, self.quick = (self.slow + 1, 0) if slow else (0, self.quick + 1)
        self.own_lane = self.slow >= _SLOW_TIMES or (self.own_lane and self.quick < _QUICK_TIMES)


_Job = tuple[_Round, deque[Device]]
_Worker = SimpleQueue[_Job | None]


class Lanes:
    """The reading threads; `read` is for the loop, one at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: deque[_Worker] = deque()
        self._busy: dict[int, int] = {}
        """Slot → since when (µs, monotonic) a call to its device has been under way."""
        self._paces: dict[int, _Pace] = {}
        """Of devices that have been slow."""
        self._late: dict[int, FlopWindow] = {}
        self._slow_us = 0
        self._later, self._pause = 0, 1
        """Rounds that are still to go without standing still, and how many after the next slow one."""
        self.threads = 0

    def stuck(self) -> Mapping[int, int]:
        """Slots whose device has not answered yet → since when, in µs of the monotonic clock."""
        with self._lock:
            return dict(self._busy)

    def late_window(self, slot: int) -> FlopWindow | None:
        """What a reading that came too late had measured of the slot, once.

        Its gauges are of another time and are lost; its window is part of a sum.
        """
        if not self._late:
            return None
        with self._lock:
            return self._late.pop(slot, None)

    async def read(
        self, devices: Sequence[Device], *, inquire: bool, share_s: float, deadline_s: float
    ) -> dict[int, Answer]:
        """What `ask` hands on."""
        done: asyncio.Future[dict[int, Answer]] = asyncio.get_running_loop().create_future()
        cancel = self.ask(
            devices, lambda answers: done.done() or done.set_result(answers),
            inquire=inquire, share_s=share_s, deadline_s=deadline_s,
        )  # fmt: skip
        try:
            return await done
        finally:
            cancel()

    def ask(
        self, devices: Sequence[Device], on_done: Callable[[dict[int, Answer]], object],
        *, inquire: bool, share_s: float, deadline_s: float,
    ) -> Callable[[], object]:  # fmt: skip
        """Hands on the answers by the device's slot that came within `deadline_s`, in the loop
        and once; returns what ends the waiting before that.

        `inquire` asks for processes and facts as well.  A device whose last call
        is still under way is not asked.
        """
        loop = asyncio.get_running_loop()
        busy = self.stuck()
        free = [device for device in devices if device.slot not in busy]
        own = [one for one in free if one.slot in self._paces and self._paces[one.slot].own_lane]

        def ended(*, cancelled: bool = False) -> None:
            if not this.closed:
                timer[0].cancel()
                self._close(this, free, spare=1 + len(own))
                if not cancelled:
                    on_done(this.answers)

        this = _Round(lambda: tell(loop, ended), len(free), inquire)
        this.over.acquire()
        self._slow_us = int(share_s * 1e6)
        if not free:
            this.closed = True
            on_done(this.answers)
            return ended
        this.queue.extend(device for device in free if device not in own)
        if self._is_over_at_once(this, own):
            self._close(this, free, spare=1)
            on_done(this.answers)
            return ended
        timer = self._timer(loop, this, ended, share_s, deadline_s)
        return lambda: ended(cancelled=True)

    def _is_over_at_once(self, this: _Round, own: Sequence[Device]) -> bool:
        """Begins, and says whether all answer within some milliseconds, for which the loop's thread stands still:
        being woken otherwise costs as much as reading a GPU.  After slower ones not at all for
        some rounds, twice as many each time."""
        this.watched = not (own or self._later)
        for device in own:
            self._start(this, deque([device]))
        if this.queue:
            self._start(this, this.queue)
        if not this.watched:
            self._later = max(0, self._later - 1)
            return False
        if this.over.acquire(timeout=min(_AT_ONCE_S, self._slow_us / 1e6)):
            self._pause = 1
            return True
        self._later, self._pause = self._pause, min(2 * self._pause, _LATER_AT_MOST)
        with self._lock:
            this.watched = False
            return this.left == 0

    def _timer(
        self, loop: asyncio.AbstractEventLoop, this: _Round, ended: Callable[[], object],
        share_s: float, deadline_s: float,
    ) -> list[asyncio.TimerHandle]:  # fmt: skip
        """Help at each share of the tick, and the end of waiting; the one that is due next."""
        ends_s = loop.time() + deadline_s
        timer: list[asyncio.TimerHandle] = []

        def due(helped: int) -> None:
            left_s = ends_s - loop.time()
            if left_s <= 0:
                ended()
                return
            if this.queue:
                self._help(this, helped)
                helped += 1
            timer[0] = loop.call_later(min(share_s, left_s), due, helped)

        timer.append(loop.call_later(min(share_s, deadline_s), due, 0))
        return timer

    def _help(self, this: _Round, helped: int) -> None:
        """Another thread for what waits behind a slow device; at the second time one for each."""
        if helped == 0:
            self._start(this, this.queue)
            return
        while this.queue:
            try:
                self._start(this, deque([this.queue.popleft()]))
            except IndexError:  # a thread was quicker
                return

    def _close(self, this: _Round, asked: Sequence[Device], *, spare: int) -> None:
        with self._lock:
            this.closed = True
            this.queue.clear()
        for device in asked:
            slot, took_us = device.slot, this.took_us.get(device.slot)
            if took_us is None and slot not in self._busy:
                continue
            slow = took_us is None or took_us > self._slow_us
            if slow or slot in self._paces:
                self._paces.setdefault(slot, _Pace()).took(slow=slow)
        while len(self._idle) > spare:
            self._idle.pop().put(None)

    def _start(self, this: _Round, devices: deque[Device]) -> None:
        worker = self._idle.pop() if self._idle else self._new()
        worker.put((this, devices))

    def _new(self) -> _Worker:
        worker: _Worker = SimpleQueue()
        with self._lock:
            self.threads += 1
        threading.Thread(target=self._serve, args=(worker,), name="devices", daemon=True).start()
        return worker

    def _serve(self, jobs: _Worker) -> None:
        while (job := jobs.get()) is not None:
            this, devices = job
            last = False
            while True:
                try:
                    device = devices.popleft()
                except IndexError:
                    break
                last = self._ask(this, device)
            # Idle before the loop hears of the end, so that it finds this thread again.
            self._idle.append(jobs)
            if last:
                this.over.release()
                if not this.watched:
                    this.ended()
            del job, this, devices
        with self._lock:
            self.threads -= 1

    def _ask(self, this: _Round, device: Device) -> bool:
        """Whether it was the round's last answer."""
        slot, began_us = device.slot, self._clock.monotonic_us()
        with self._lock:
            self._busy[slot] = began_us
        answer = answer_of(device, inquire=this.inquire)
        took_us = self._clock.monotonic_us() - began_us
        with self._lock:
            del self._busy[slot]
            if this.closed:
                self._keep_windows(answer.samples)
                return False
            this.answers[slot], this.took_us[slot] = answer, took_us
            this.left -= 1
            return this.left == 0

    def _keep_windows(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            window = joined(self._late.get(sample.labels.slot), sample.flop)
            if window is not None:
                self._late[sample.labels.slot] = window

    async def idle(self) -> None:
        """Returns when no call is under way, which may be never: bound the waiting."""
        while self.stuck():  # noqa: ASYNC110 -- seldom, and nothing then hurries
            await asyncio.sleep(0.05)

    def end(self) -> None:
        """Lets the threads that wait for work go; those in a call go with the process."""
        while self._idle:
            self._idle.pop().put(None)
