"""What a failure of the driver does: every code × every call × every branch of driver.

The truth moves with time, so that a value which is repeated shows.  A run
without faults says what each reading should hold; one with a fault may lack
values, and may hold no other ones.  A fault in a call that the run without
faults does not make changes nothing, and is not run.

The whole table is `long`; the quick one has every code, and in each branch one
code of every class.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from fake_nvml import (
    XID,
    FakeEvent,
    FakeGpu,
    FakeNvml,
    FakeProcess,
    missing_in,
    of_branch,
    whole_h100,
)
from manual_clock import ManualClock

from collectors.contract.flop import FlopWindow
from collectors.contract.source import (
    BackendUnavailableError,
    DeviceEvent,
    DeviceLostError,
    DriverGoneError,
    GpuProcess,
    RestartNeededError,
    Sample,
    TransientError,
    UnsupportedError,
)
from collectors.nvml.backend import NvmlBackend
from collectors.nvml.fields import TRAFFIC

BRANCHES = {
    "470.256.02": (470, 256), "535.183.06": (535, 183), "570.86.15": (570, 86),
    "575.51.03": (575, 51), "580.65.06": (580, 65), "580.95.05": (580, 95),
    "595.45.04": (595, 45), "615.10": (615, 10),
}  # fmt: skip
NEVER = (3, 13, 22, 25, 26, 4)
NOW = (6, 7, 10, 21, 27, 2, 19, 20, 999)
"""999 too: one call that fails so while others answer is no sick GPU."""
LOST = (8, 11, 14, 15, 16, 29)
GONE = (1, 9, 12, 17, 28)
MISMATCH = (18,)
CODES = (*NEVER, *NOW, *LOST, *GONE, *MISMATCH)
ONE_OF_EACH = (3, 999, 15, 9, 18)

TICK_CALLS = (
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTemperature",
    "nvmlDeviceGetMarginTemperature", "nvmlDeviceGetClockInfo", "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFanSpeed", "nvmlDeviceGetPerformanceState",
    "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetCurrPcieLinkGeneration", "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetViolationStatus",
    "nvmlDeviceGetSamples", "nvmlDeviceGetNvLinkErrorCounter", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount", "nvmlGpmQueryDeviceSupport", "nvmlGpmSampleGet",
    "nvmlGpmMetricsGet", "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMinorNumber", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPersistenceMode",
    "nvmlDeviceGetTemperatureThreshold", "nvmlDeviceGetPowerManagementDefaultLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
)  # fmt: skip
"""What a reading may call, at once, now and then, or the first time."""
OPEN_CALLS = (
    "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetUUID",
    "nvmlDeviceGetName", "nvmlDeviceGetSerial",
)  # fmt: skip
FIELDS = (
    "186", "185", "82", "83", "74", "94", "269", "251", "144", "145", "230", "142", "197", "138",
    "45",
)  # fmt: skip
FAILURES = (
    TransientError, DeviceLostError, DriverGoneError, RestartNeededError, UnsupportedError,
)  # fmt: skip
"""All that the contract names."""
POLICIES = {74: 0, 269: 1, 76: 2}
"""Fields of throttled time → the older call's policies."""
TICKS, STEP_S = 8, 30
"""Everything is due at each tick; the fault is there in ticks 2 to 4."""
BEGINS_S, ENDS_S = 1.5 * STEP_S, 4.5 * STEP_S


@dataclass
class Tick:
    """One reading: what it gave, or how it failed."""

    values: dict[str, float]
    window: FlopWindow | None = None
    error: Exception | None = None
    asked: int = 0


def truth(branch: tuple[int, int], bus: int) -> FakeGpu:
    """A GPU that never says the same twice, nor 0 where it matters."""
    gpu = whole_h100(bus)
    moved_mib = 3_000_000 / STEP_S / 2**20
    gpu.gpm |= {20: moved_mib, 21: moved_mib, 60: moved_mib * 1024, 61: moved_mib * 1024}
    levels = {
        "temperature": (50, 1), "margin": (20, 1), "sm_clock": (1500, 10), "limit_mw": (700_000, -1000),
        "memory_clock": (2000, 10), "gpu_util": (60, 2), "memory_util": (30, 1), "used": (2**30, 2**28),
        "power_mw": (300_000, 5000), "ecc_corrected": (5, 1), "ecc_uncorrected": (1, 1),
    }  # fmt: skip
    counters = (82, 74, 76, 94, 142, 143, 197, 198, 138, 139, 45, 269, 270, 271)
    for tick in range(TICKS):
        at_s = (tick - 0.5) * STEP_S
        gpu.timeline += [
            (at_s, f"set {key} {start + tick * step}") for key, (start, step) in levels.items()
        ]
        gpu.timeline.append((at_s, f"gpm 5 {0.5 + tick / 50}"))
        for number in counters:
            if number in gpu.fields:
                kind, start = gpu.fields[number]
                step = 1 if number == 82 else 3_000_000
                value = start + (tick + 1) * step
                gpu.timeline.append((at_s, f"field {number} {kind} {value}"))
                if number in POLICIES:
                    gpu.timeline.append((at_s, f"set violation_{POLICIES[number]} {value}"))
    return moved(of_branch(gpu, branch), branch)


def moved(gpu: FakeGpu, branch: tuple[int, int]) -> FakeGpu:
    """The timeline's fields, too, where the branch has them."""
    place = 269 if branch >= (580, 82) else 251 if branch >= (575, 0) else None
    lines: list[tuple[float, str]] = []
    for at_s, line in gpu.timeline:
        word, key, *rest = line.split()
        if word == "field" and key in {"269", "270", "271"} and place is not None:
            key = str(int(key) - 269 + place)
        known = int(key) in gpu.fields if word == "field" else key in gpu.sets or word == "gpm"
        if known:
            lines.append((at_s, " ".join((word, key, *rest))))
    gpu.timeline = lines
    return gpu


class Node:
    """Two GPUs of a branch; the second has the fault."""

    def __init__(self, fake: FakeNvml, driver: str) -> None:
        self.fake, self.driver = fake, driver
        self.library = ctypes.CDLL(str(fake.library))
        self.gpus = [truth(BRANCHES[driver], bus) for bus in (0x10, 0x20)]
        self.plain = self.run([])
        self.first_slot = min(self.slots)
        asked = self.calls_by_tick()
        self.early = [call for call in (*TICK_CALLS, *OPEN_CALLS) if call in asked[0]]
        """What is called between the opening and the third reading."""
        self.in_mid_run = [call for call in TICK_CALLS if call in asked[1]]
        """What is called in ticks 2 to 4."""

    def calls_by_tick(self) -> tuple[set[str], set[str]]:
        """What a run without faults calls early on, and in ticks 2 to 4."""
        self.start([])
        counts = [self.count_calls()]
        self.backend.open()
        try:
            for _ in range(5):
                counts.append(self.count_calls())
                for device in self.backend.devices():
                    device.facts()
                    device.read()
                self.step()
            counts.append(self.count_calls())
        finally:
            self.backend.close()
        return more(counts[0], counts[4]), more(counts[3], counts[6])

    def count_calls(self) -> dict[str, int]:
        """Of each call, how often it was made."""
        calls = (*TICK_CALLS, *OPEN_CALLS)
        return {call: self.library.fakeCalls(call.encode()) for call in calls}

    def start(self, fault: Sequence[tuple[float, str]]) -> None:
        sick = replace(self.gpus[1], timeline=[*self.gpus[1].timeline, *fault])
        _ = self.fake.clock
        self.fake.write([self.gpus[0], sick], driver=self.driver)
        self.fake.clock.set_us(0)
        self.clock = ManualClock()
        self.backend = NvmlBackend(self.clock, interval_s=STEP_S)

    def step(self) -> None:
        self.clock.move(STEP_S)
        self.fake.clock.move(STEP_S)

    def run(self, fault: Sequence[tuple[float, str]], call: str = "") -> list[list[Tick]]:
        """Readings of both GPUs; the backend looks again before tick 6."""
        self.start(fault)
        self.backend.open()
        ticks: list[list[Tick]] = [[], []]
        self.states: list[str] = []
        try:
            for number in range(TICKS):
                if number == 6:
                    self.backend.rescan()
                self.states.append(self.backend.devices()[1].facts()[0].state)
                for index, device in enumerate(self.backend.devices()):
                    before = self.library.fakeCalls(call.encode())
                    tick = read(device.read)
                    tick.asked = self.library.fakeCalls(call.encode()) - before
                    ticks[index].append(tick)
                self.step()
            self.slots = [device.slot for device in self.backend.devices()]
            self.facts = self.backend.devices()[1].facts()[0]
        finally:
            self.backend.close()
        return ticks


def more(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """What was called between two counts."""
    return {call for call, count in after.items() if count > before[call]}


def read(call: Callable[[], Sequence[Sample]]) -> Tick:
    """One reading; errors that the contract does not name are not caught."""
    try:
        [sample] = call()
    except (TransientError, DeviceLostError, DriverGoneError, RestartNeededError) as error:
        return Tick({}, error=error)
    return Tick(dict(sample.values), sample.flop)


def wrong_values(ticks: Sequence[Tick], plain: Sequence[Tick]) -> Iterator[str]:
    """Values that the truth did not hold at that time, or over a window that ends then."""
    for number, tick in enumerate(ticks):
        before = plain[max(0, number - 2) : number + 1]
        for name, value in tick.values.items():
            spans = name.endswith("activity")
            known = [
                one.values[name] for one in (before if spans else before[-1:]) if name in one.values
            ]
            # Traffic goes on from another source of the same, and may miss what lay between.
            missed = 2 * (known[0] - plain[0].values[name]) if name in TRAFFIC and known else 0
            slack = 1e-9 * abs(value) + (1 if name in TRAFFIC else 0)
            if not known or not min(known) - missed - slack <= value <= max(known) + slack:
                yield f"tick {number}: {name} {value}, not {known}"
        if tick.window is not None and tick.window.elapsed_us:
            rates = [
                one.window.gflop / one.window.elapsed_us
                for one in before
                if one.window is not None and one.window.elapsed_us
            ]
            rate = tick.window.gflop / tick.window.elapsed_us
            if not rates or not 0.995 * min(rates) <= rate <= 1.005 * max(rates):
                yield f"tick {number}: {rate} GFLOP/µs, not {rates}"


def expect_never(node: Node, ticks: list[Tick]) -> Iterator[str]:
    after = ticks[7].values.keys()
    during = ticks[3].values.keys()
    gone = node.plain[1][3].values.keys() - during
    if after - during:
        yield f"came back without a fresh start: {sorted(after - during)}"
    if gone - node.facts.unsupported.keys():
        yield f"not said to be unsupported: {sorted(gone - node.facts.unsupported.keys())}"


def expect_now(node: Node, ticks: list[Tick]) -> Iterator[str]:
    missing = node.plain[1][7].values.keys() - ticks[7].values.keys()
    if missing:
        yield f"did not come back: {sorted(missing)}"
    if any(tick.error for tick in ticks):
        yield f"failed as a whole: {[tick.error for tick in ticks]}"


def expect_lost(node: Node, ticks: list[Tick], code: int) -> Iterator[str]:
    for number in (2, 3, 4, 5):
        if not isinstance(ticks[number].error, DeviceLostError):
            yield f"tick {number}: {ticks[number].error!r}, not lost"
    if any(tick.asked for tick in ticks[3:6]):
        yield "asked again while it was lost"
    if node.states[3] != ("needs_reset" if code == 16 else "lost"):
        yield f"state {node.states[3]}"
    if ticks[6].error or "gpu_temperature_c" not in ticks[6].values or node.states[6] != "ok":
        yield f"not back after the rescan: {ticks[6].error!r}"


def expect_raised(kind: type[Exception], ticks: list[Tick]) -> Iterator[str]:
    for number in (2, 3, 4):
        if ticks[number].asked and not isinstance(ticks[number].error, kind):
            yield f"tick {number}: {ticks[number].error!r}, not {kind.__name__}"
    if ticks[7].error is not None:
        yield f"still failing: {ticks[7].error!r}"


def faults(node: Node, code: int, *, field: bool, ticks: list[Tick]) -> Iterator[str]:
    """What is not as the table says, for a fault that was met at tick 2."""
    if code in NEVER or (field and code == 2):
        yield from expect_never(node, ticks)
    elif code in NOW:
        yield from expect_now(node, ticks)
    elif code in LOST:
        yield from expect_lost(node, ticks, code)
    else:
        yield from expect_raised(RestartNeededError if code == 18 else DriverGoneError, ticks)


@pytest.fixture
def node(fake_nvml: FakeNvml, request: pytest.FixtureRequest) -> Node:
    return Node(fake_nvml, request.param)


def by_branch_and_code(test: Callable[..., None]) -> Callable[..., None]:
    """For each branch, with the functions that its library has, and each code."""
    cases = [
        pytest.param(
            missing_in(branch[0]), driver, code, id=f"{driver}-{code}",
            marks=() if code in ONE_OF_EACH or at % len(BRANCHES) == row else pytest.mark.long,
        )
        for row, (driver, branch) in enumerate(BRANCHES.items())
        for at, code in enumerate(CODES)
    ]  # fmt: skip
    names = ("fake_nvml", "node", "code")
    return pytest.mark.parametrize(names, cases, indirect=names[:2])(test)


def test_the_truth_is_read_whole(fake_nvml: FakeNvml) -> None:
    """The runs that others are held against are not empty, and no value stays what it was."""
    node = Node(fake_nvml, "580.95.05")
    first, second = node.plain[1][4].values, node.plain[1][5].values
    assert len(first) > 35
    same = {name for name, value in first.items() if second.get(name) == value}
    assert same <= {
        "memory_total_bytes", "performance_state", "recovery_action", "row_remap_pending",
        "row_remap_failure", "clocks_event_reasons", "pcie_link_generation", "pcie_link_width",
        "sm_activity", "dram_activity", "sm_occupancy", "fp64_activity", "fp32_activity",
        "fp16_activity", "tensor_fp64_activity", "tensor_int8_activity",
    }  # fmt: skip


@by_branch_and_code
def test_a_call_that_fails_in_mid_run(node: Node, code: int) -> None:
    wrong: list[str] = []
    for call in node.in_mid_run:
        at = [(BEGINS_S, f"fail {call} {code}"), (ENDS_S, f"fail {call} 0")]
        other, ticks = node.run(at, call)
        wrong += [f"{call}, the other GPU: {text}" for text in wrong_values(other, node.plain[0])]
        wrong += [f"{call}, the other GPU: {tick.error!r}" for tick in other if tick.error]
        wrong += [f"{call}: {text}" for text in wrong_values(ticks, node.plain[1])]
        if ticks[2].asked:
            wrong += [f"{call}: {text}" for text in faults(node, code, field=False, ticks=ticks)]
    assert wrong == []


@by_branch_and_code
def test_a_field_that_fails_in_mid_run(node: Node, code: int) -> None:
    wrong: list[str] = []
    known = node.gpus[1].fields
    for number in FIELDS:
        if int(number) not in known:
            continue
        at = [(BEGINS_S, f"field_error {number} {code}"), (ENDS_S, f"field_error {number} 0")]
        other, ticks = node.run(at, "nvmlDeviceGetFieldValues")
        wrong += [f"{number}, the other GPU: {tick.error!r}" for tick in other if tick.error]
        wrong += [f"{number}: {text}" for text in wrong_values(ticks, node.plain[1])]
        wrong += [f"{number}: {text}" for text in faults(node, code, field=True, ticks=ticks)]
    assert wrong == []


@by_branch_and_code
def test_a_call_that_fails_from_the_start(node: Node, code: int) -> None:
    """The GPU is not there, or has fewer values; once the fault is over and the library is
    opened anew, it has all of them."""
    wrong: list[str] = []
    for call in node.early:
        at = [(-1e6, f"fail {call} {code}"), (ENDS_S, f"fail {call} 0")]
        node.start(at)
        try:
            wrong += [f"{call}: {text}" for text in from_the_start(node, code)]
        finally:
            node.backend.close()
    assert wrong == []


def from_the_start(node: Node, code: int) -> Iterator[str]:
    try:
        node.backend.open()
    except RestartNeededError:
        if code != 18:
            raise
        return
    for number in range(3):
        for device in node.backend.devices():
            tick = read(device.read)
            which = int(device.slot != node.first_slot)
            yield from wrong_values([*node.plain[which][:number], tick], node.plain[which])
            if not which and tick.error:
                yield f"the other GPU: {tick.error!r}"
        node.step()
    for _ in range(2):
        node.step()
    node.backend.close()
    node.backend.open()
    for device in node.backend.devices():
        read(device.read)
    node.step()
    after = [read(device.read) for device in node.backend.devices()]
    for tick, plain in zip(after, node.plain, strict=True):
        if tick.values.keys() != plain[7].values.keys():
            yield f"not as before: {tick.values.keys() ^ plain[7].values.keys()} {tick.error!r}"


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    "call", ["nvmlInitWithFlags", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2"]
)
def test_a_driver_that_cannot_be_opened_says_so(fake_nvml: FakeNvml, call: str, code: int) -> None:
    """18 asks for a new process; all else is waited for by an agent that stays alive."""
    fake_nvml.write([whole_h100()], system=[f"fail {call} {code}"])
    backend = NvmlBackend(ManualClock())
    with pytest.raises(BackendUnavailableError) as caught:
        backend.open()
    assert isinstance(caught.value, RestartNeededError) == (code == 18)
    fake_nvml.write([whole_h100()])
    backend.open()
    assert backend.devices()[0].read()[0].values["gpu_temperature_c"] == 61
    backend.close()


@pytest.mark.parametrize("code", CODES)
def test_a_rescan_that_fails_keeps_what_is_there(fake_nvml: FakeNvml, code: int) -> None:
    """Only the driver's own failures go further; devices stay, and are read again."""
    gpus = [whole_h100(0x10), whole_h100(0x20)]
    fake_nvml.write(gpus)
    backend = NvmlBackend(ManualClock())
    backend.open()
    for call, system in (("nvmlDeviceGetCount_v2", True), *((one, False) for one in OPEN_CALLS)):
        gpus[1].fails = {} if system else {call: code}
        fake_nvml.write(gpus, system=[f"fail {call} {code}"] if system else [])
        if system or code == 18:
            with pytest.raises(RuntimeError) as caught:
                backend.rescan()
            assert isinstance(caught.value, FAILURES)
        else:
            backend.rescan()
        assert len(backend.devices()) == 2
        assert "power_w" in backend.devices()[0].read()[0].values
    backend.close()


def listen(backend: NvmlBackend) -> tuple[Sequence[DeviceEvent], RuntimeError | None]:
    """What is heard, or why nothing ever will be."""
    try:
        return backend.wait_events(0), None
    except (UnsupportedError, DriverGoneError, RestartNeededError) as error:
        return (), error


EVENT_CALLS = ("nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents")


@pytest.mark.parametrize("code", CODES)
def test_events_that_fail_cost_no_readings(fake_nvml: FakeNvml, code: int) -> None:
    """Of one GPU: the other's events come.  Of all: the thread is told why."""
    library = ctypes.CDLL(str(fake_nvml.library))
    before = library.fakeLiveSets()
    for call in (*EVENT_CALLS, "nvmlEventSetCreate", "nvmlEventSetWait_v2"):
        gpus = [whole_h100(0x10), whole_h100(0x20)]
        gpus[1].fails = {call: code} if call in EVENT_CALLS else {}
        system = [] if call in EVENT_CALLS else [f"fail {call} {code}"]
        fake_nvml.write(gpus, system=system)
        backend = NvmlBackend(ManualClock())
        backend.open()
        heard, ended = listen(backend)
        if call in EVENT_CALLS and code not in (*GONE, *MISMATCH):
            assert ended is None
            gpus[0].events.append(FakeEvent(0, XID, 79))
            fake_nvml.write(gpus, system=system)
            heard, ended = listen(backend)
            assert ended is None
            assert [event.code for event in heard] == [79]
        assert ended is None or isinstance(ended, FAILURES)
        assert all("power_w" in one.read()[0].values for one in backend.devices())
        backend.close()
        assert library.fakeLiveSets() == before


@pytest.mark.parametrize("code", CODES)
def test_processes_that_cannot_be_listed_cost_no_readings(fake_nvml: FakeNvml, code: int) -> None:
    kinds = {
        **dict.fromkeys(NEVER, UnsupportedError), **dict.fromkeys(NOW, TransientError),
        **dict.fromkeys(LOST, DeviceLostError), **dict.fromkeys(GONE, DriverGoneError),
        18: RestartNeededError,
    }  # fmt: skip
    process = FakeProcess(4711, sm_util=50)
    gpu = whole_h100()
    gpu.processes = [process]
    clock = ManualClock()
    backend = NvmlBackend(clock)
    for call in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetProcessUtilization"):
        gpu.fails = {}
        fake_nvml.write([gpu])
        backend.open()
        [device] = backend.devices()
        assert [one.pid for one in device.processes()] == [4711]
        gpu.fails = {call: code}
        fake_nvml.write([gpu])
        if call == "nvmlDeviceGetProcessUtilization" and code in (*NEVER, *NOW):
            [one] = device.processes()
            assert one == GpuProcess(device.slot, 4711, 2**30, None)
        elif call == "nvmlDeviceGetComputeRunningProcesses_v3" and code == 7:
            with pytest.raises(TransientError):  # it never has room enough
                device.processes()
        else:
            with pytest.raises(kinds[code]):
                device.processes()
        if code not in LOST:
            assert "power_w" in device.read()[0].values
        backend.close()


def test_a_sick_driver_is_not_asked_for_its_texts(fake_nvml: FakeNvml) -> None:
    gpu = whole_h100()
    fake_nvml.write([gpu])
    library = ctypes.CDLL(str(fake_nvml.library))
    before = library.fakeErrorStrings()
    backend = NvmlBackend(ManualClock())
    backend.open()
    for code in CODES:
        gpu.fails = {"all": code}
        fake_nvml.write([gpu])
        tick = read(backend.devices()[0].read)
        assert tick.values == {}
        assert str(code) in str(tick.error) or isinstance(backend.devices()[0].lost, bool)
    backend.close()
    assert library.fakeErrorStrings() == before


def test_a_gpu_on_which_nothing_is_known_is_lost_at_the_third_time(fake_nvml: FakeNvml) -> None:
    gpus = [whole_h100(0x10), whole_h100(0x20)]
    fake_nvml.write(gpus)
    backend = NvmlBackend(ManualClock())
    backend.open()
    sick, fine = backend.devices()
    gpus[0].fails = {"all": 999}
    fake_nvml.write(gpus)
    assert isinstance(read(sick.read).error, DeviceLostError)
    assert "power_w" in fine.read()[0].values
    gpus[0].fails = {}
    fake_nvml.write(gpus)
    backend.rescan()
    assert "power_w" in backend.devices()[0].read()[0].values
    backend.close()
