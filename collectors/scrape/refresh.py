"""How often an exporter renews what it shows, learnt from when its values change.

An exporter shows the means over its own interval (dcgm-exporter: 30 s) until
the next is over.  Asking more often repeats them, which is nothing new; asking
less often misses some, and then what was seen covers its interval only.
"""

from __future__ import annotations

from collections import deque

_REMEMBERED = 16
_SETTLED = 3
"""Changes at every question before it is asked in between."""
_PROBE_CHANGES = 5
"""Changes at one distance before values are taken to live shorter: chance finds four with
values that live a fifth longer."""
_CLOSE = 1.3
_SLOW_LEAST = 2
_SHORTEST_US = 1_000_000


class RefreshClock:
    """Of one exporter; told of each page, says how much time its values are about.

    Where pages come faster than values change, the mean distance of changes is
    the interval.  Where each page is new the interval is shorter than the
    distance of pages: then `probe_us` asks for pages in between, which bound it
    from below (no change within d: longer than d) and from above.
    """

    def __init__(self, stated_us: int | None = None) -> None:
        self._stated_us = stated_us
        self._seen_us: int | None = None
        self._changed_us: int | None = None
        self._open_us = 0
        self._gaps: deque[tuple[int, bool]] = deque(maxlen=_REMEMBERED)
        self._always = 0
        self._least_us, self._most_us = 0, 0
        self._probe_changes = 0

    def see(self, time_us: int, *, changed: bool) -> int:
        """µs of time that the values of a page stand for and no earlier page's did; 0 for a
        repeated page, and for as long as the interval is unknown."""
        gap_us = 0 if self._seen_us is None else time_us - self._seen_us
        self._seen_us = time_us
        self._open_us += gap_us
        if not changed:
            return 0
        self._learn(time_us, gap_us)
        interval_us = self.interval_us
        if interval_us is None:
            self._open_us = 0
            return 0
        elapsed_us = min(interval_us, self._open_us)
        # What is left is no more than the uncertainty of when within the gap it changed.
        self._open_us = min(self._open_us - elapsed_us, gap_us)
        return elapsed_us

    def lost(self) -> None:
        """A page did not come: what passes until the next says nothing of the interval."""
        self._seen_us = self._changed_us = None
        self._open_us = 0

    def probe(self, *, changed: bool) -> None:
        """What a page showed that came `probe_us` after a changed one.

        It is not told to `see`: times are counted from asking to asking.
        """
        at_us = self.probe_us
        if at_us is None:
            return
        if not changed:
            self._least_us, self._probe_changes = at_us, 0
            return
        self._probe_changes += 1
        if self._probe_changes >= _PROBE_CHANGES:
            self._most_us, self._probe_changes = at_us, 0

    @property
    def interval_us(self) -> int | None:
        """None while unknown.  Where only bounds are known, the lower one."""
        if self._stated_us is not None:
            return self._stated_us
        if self._slow:
            return sum(since_us for since_us, _ in self._gaps) // len(self._gaps)
        if self._fast and self._probed():
            return max(self._least_us, min(self._most_us, _SHORTEST_US))
        return None

    @property
    def probe_us(self) -> int | None:
        """When to ask once more after a page, so that the interval becomes known; None for not."""
        if self._stated_us is not None or not self._fast or self._probed():
            return None
        return (self._least_us + self._most_us) // 2

    @property
    def _slow(self) -> bool:
        """Whether values outlive pages: now and then one is repeated, not once by chance."""
        repeated = sum(1 for _, repeats in self._gaps if repeats)
        return repeated >= max(_SLOW_LEAST, len(self._gaps) // 8)

    @property
    def _fast(self) -> bool:
        return not self._slow and self._most_us > 0

    def _probed(self) -> bool:
        return self._most_us <= max(_SHORTEST_US, int(self._least_us * _CLOSE))

    def _learn(self, time_us: int, gap_us: int) -> None:
        since_us = None if self._changed_us is None else time_us - self._changed_us
        self._changed_us = time_us
        if since_us is None:
            return
        repeats = since_us > gap_us
        self._gaps.append((since_us, repeats))
        self._always = 0 if repeats else self._always + 1
        if self._slow:
            self._least_us = self._most_us = 0
        elif self._always == _SETTLED and not self._most_us:
            self._most_us = gap_us
