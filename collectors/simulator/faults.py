"""The faults that can be simulated: one row each, with what it may hit and how hard.

A hardware fault changes what happens, a telemetry fault what is told of it.
Random rates are per GPU and month of 730 h: Llama 3's 54 days on 16,384 GPUs
and the 348-day log of a 400-server cluster; a kind without one happens by
schedule alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Family(Enum):
    """What a fault changes."""

    HARDWARE = "hardware"
    TELEMETRY = "telemetry"


@dataclass(frozen=True, slots=True)
class Strength:
    """How hard a fault hits: a number in `unit` with its default and bounds."""

    unit: str
    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One row.  `scopes` are what an event of it may name, the narrowest first.

    `lasts_s` is how long it lasts where the event does not say (None: to the
    end), `ramp_s` how long it takes to full strength.
    """

    name: str
    family: Family
    scopes: tuple[str, ...]
    strength: Strength | None
    lasts_s: float | None
    ramp_s: float
    per_gpu_month: float | None
    help: str


_H, _T = Family.HARDWARE, Family.TELEMETRY
_GPU, _NODE, _RACK, _HALL = ("gpu", "node"), ("node",), ("rack",), ("hall", "site")
_PLACE = ("gpu", "node", "rack", "hall", "site")
_HOUR, _DAY = 3_600.0, 86_400.0


def _s(unit: str, default: float, low: float, high: float, meaning: str) -> Strength:
    return Strength(unit, default, low, high, meaning)


# fmt: off
_ROWS = (
    FaultKind("rack_pump_failure", _H, _RACK, _s("ratio", 0.5, 0.05, 1.0, "lost part of the coolant's flow"), 0.5 * _HOUR, 60, None,
              "A rack's pump slows: every GPU of it is cooled worse, and the coolant warms."),
    FaultKind("rack_cdu_failure", _H, _RACK, _s("°C", 15, 1, 40, "rise of the coolant"), 0.5 * _HOUR, 240, None,
              "A rack's coolant distribution unit no longer gives off heat: its coolant warms."),
    FaultKind("rack_airflow_blocked", _H, _RACK, _s("ratio", 0.35, 0.05, 2.0, "added thermal resistance"), 2 * _HOUR, 30, None,
              "A rack's airflow is blocked: resistance to the inlet rises at once."),
    FaultKind("hot_inlet", _H, (*_RACK, *_HALL), _s("°C", 8, 1, 30, "rise of the inlet"), 2 * _HOUR, 600, None,
              "Air or coolant comes in too warm, in a rack, a hall or the whole site."),
    FaultKind("cold_plate_fouling", _H, _GPU, _s("ratio", 0.5, 0.05, 3.0, "added thermal resistance"), None, 2 * _DAY, 0.0001,
              "A cold plate clogs over days: one node or one GPU is cooled ever worse."),
    FaultKind("thermal_interface_ageing", _H, ("gpu",), _s("ratio", 0.8, 0.05, 3.0, "added thermal resistance"), None, 1 * _DAY, 0.0002,
              "The interface between one chip and its cold plate fails slowly."),
    FaultKind("fan_failure", _H, _NODE, _s("ratio", 0.25, 0.05, 2.0, "added thermal resistance"), 8 * _HOUR, 20, 0.0045,
              "A server's fan stops: all its GPUs are cooled worse."),
    FaultKind("power_brake", _H, ("node", "rack"), _s("ratio", 0.5, 0.1, 0.9, "clock that is left"), 300, 0, None,
              "The power supply asks for the brake: clocks fall at once (hardware power brake)."),
    FaultKind("power_cap_lowered", _H, ("gpu", "node", "rack", "hall", "site"), _s("ratio", 0.6, 0.2, 1.0, "of the board's power limit"), 2 * _HOUR, 0, None,
              "Somebody lowers the power limit."),
    FaultKind("ecc_storm", _H, ("gpu",), _s("1/s", 5, 0.001, 10_000, "corrected errors"), 600, 0, 0.0025,
              "Memory errors: corrected ones at a rate, and an uncorrected one at the end."),
    FaultKind("row_remap_failure", _H, ("gpu",), None, None, 0, 0.0007,
              "A GPU has no spare rows left: the remap fails and waits for ever."),
    FaultKind("xid", _H, ("gpu",), _s("code", 31, 1, 200, "XID"), 0, 0, 0.0011,
              "The driver reports an XID, and the job on the GPU ends as failed."),
    FaultKind("gpu_off_bus", _H, ("gpu",), None, 6 * _HOUR, 0, 0.0051,
              "A GPU falls off the bus (XID 79): it cannot be read and works no more."),
    FaultKind("driver_hung", _H, _GPU, None, 600, 0, 0.0006,
              "Calls to the driver block: the GPU goes on working, and nothing can be read."),
    FaultKind("node_dark", _H, _NODE, None, 1 * _HOUR, 0, 0.0008,
              "A server loses its power: no records, no work, no heat."),
    FaultKind("rack_dark", _H, _RACK, None, 1 * _HOUR, 0, None,
              "A rack loses its power."),
    FaultKind("agent_crash", _H, _NODE, _s("s", 20, 1, 3_600, "until it runs again"), 0, 0, None,
              "The agent dies and comes back as a new run; the GPUs work on."),
    FaultKind("late", _T, ("node", "rack", "site"), _s("s", 300, 1, 900, "longest delay"), 600, 0, None,
              "Records come late, each by up to so much."),
    FaultKind("reordered", _T, ("node", "rack", "site"), _s("s", 5, 0.1, 60, "span in which order is lost"), 600, 0, None,
              "Records overtake each other."),
    FaultKind("duplicated", _T, ("node", "rack", "site"), _s("ratio", 0.3, 0.001, 1.0, "of the records"), 600, 0, None,
              "Records come twice, the second some seconds later."),
    FaultKind("lost", _T, ("node", "rack", "site"), _s("ratio", 0.2, 0.001, 1.0, "of the records"), 600, 0, None,
              "Records never come."),
    FaultKind("corrupt", _T, ("node", "rack", "site"), _s("ratio", 0.1, 0.001, 1.0, "of the records"), 600, 0, None,
              "Bits flip on the way."),
    FaultKind("truncated", _T, ("node", "rack", "site"), _s("ratio", 0.1, 0.001, 1.0, "of the records"), 600, 0, None,
              "Records lose their end."),
    FaultKind("oversized", _T, _NODE, _s("ratio", 0.05, 0.001, 1.0, "of the records"), 600, 0, None,
              "Records claim more slots than a record may hold."),
    FaultKind("clock_skew", _T, ("node", "rack"), _s("s", 20, -3_600, 3_600, "ahead of true time"), 1_200, 0, None,
              "A node's clock is wrong from one moment to another: a new run begins and ends."),
    FaultKind("clock_drift", _T, ("node", "rack"), _s("ppm", 200, -500, 500, "fast"), 7_200, 0, None,
              "A node's clock runs fast or slow, as far as NTP lets it."),
    FaultKind("counter_reset", _T, _GPU, None, 0, 0, None,
              "The device's counters begin again at zero (driver reload), with a new energy epoch."),
    FaultKind("counter_wrap", _T, _GPU, None, 0, 0, None,
              "The energy counter falls without a new epoch, as after a wrap."),
    FaultKind("sensor_stuck", _T, _GPU, None, 900, 0, None,
              "Power and temperature stay at their last value."),
    FaultKind("sensor_spike", _T, _GPU, _s("ratio", 0.02, 0.0001, 1.0, "of the samples"), 900, 0, None,
              "Power and temperature jump to possible but wrong values."),
    FaultKind("sensor_sentinel", _T, _GPU, _s("ratio", 0.1, 0.0001, 1.0, "of the samples"), 900, 0, None,
              "Blanks of the driver (2^32 − 1 and the like) stand where values should."),
    FaultKind("false_name", _T, _NODE, None, 600, 0, None,
              "A node sends under the name of its neighbour."),
)
# fmt: on

FAULTS: dict[str, FaultKind] = {row.name: row for row in _ROWS}
"""All kinds by name."""


def names(family: Family) -> list[str]:
    """The kinds of a family, in the order of the table."""
    return [row.name for row in _ROWS if row.family is family]
