"""Whether the counters of throttled time are what they are taken for: no I/O here.

Their field ids have moved between driver branches, and a wrong id would be
read as some other counter for ever.  The bits of the clocks' event reasons say
the same thing another way: a bit that stays set while its counter stands still
means that the counter is not what we think.
"""

from __future__ import annotations

from collections.abc import Mapping

_BITS = {
    "throttle_sw_thermal_us": 0x20,
    "throttle_hw_thermal_us": 0x40,
    "throttle_power_brake_us": 0x80,
}
"""Those whose ids have moved.  The power cap's has not, and its bit is also set by limits of
peak current, which that counter need not see."""
_ANY_BIT = 0xE0
_LONG_US = 3_000_000
REASONS = "clocks_event_reasons"


class ThrottleCheck:
    """Watches each counter until it has once moved while its bit was set."""

    def __init__(self) -> None:
        self._open = dict(_BITS)
        self._since: dict[str, tuple[int, float]] = {}

    def wrong(self, values: Mapping[str, float], now_us: int) -> frozenset[str]:
        """The counters that this reading proves to be something else."""
        if not self._open:
            return frozenset()
        reasons = values.get(REASONS)
        if reasons is None or not int(reasons) & _ANY_BIT:
            self._since.clear()
            return frozenset()
        found = [name for name in self._open if self._stands(name, values, int(reasons), now_us)]
        for name in found:
            del self._open[name]
        return frozenset(found)

    def _stands(self, name: str, values: Mapping[str, float], reasons: int, now_us: int) -> bool:
        value = values.get(name)
        if value is None or not reasons & _BITS[name]:
            self._since.pop(name, None)
            return False
        since_us, first = self._since.setdefault(name, (now_us, value))
        if value != first:
            self._since[name] = now_us, value
            self._confirmed(name)
            return False
        return now_us - since_us >= _LONG_US

    def _confirmed(self, name: str) -> None:
        self._open = {other: bit for other, bit in self._open.items() if other != name}
