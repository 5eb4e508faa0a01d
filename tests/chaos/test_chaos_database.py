"""InfluxDB killed in the middle of a write, and again: what was acknowledged in between is kept."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_disk import Disk
from chaos_processes import MissingServicesError, Services, Target

from pipeline.series.influx_wire import InfluxWire
from pipeline.series.port import StoreUnavailableError

_BUCKET = "kept"
_ANSWERS_S = 60.0


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    disk = Disk(tmp_path / "influx", 200)
    try:
        made = Services(tmp_path, {"influx": disk})
    except MissingServicesError as missing:
        disk.close()
        pytest.skip(str(missing))
    yield made
    made.targets[0].kill()
    disk.close()


def _wire(services: Services) -> InfluxWire:
    address, _, options = services.settings["PETAWATCH_STORE"].partition("?")
    url = address.replace("influxdb://", "http://")
    token = services.settings["PETAWATCH_INFLUX_TOKEN"]
    wire = InfluxWire(url, token, options.removeprefix("org="), timeout_s=10.0, gzip=False)
    wire.open()
    return wire


def _answering(target: Target, wire: InfluxWire) -> None:
    """Starts it, and returns once it takes requests."""
    until_s = time.monotonic() + _ANSWERS_S
    while True:
        target.start()
        try:
            wire.version()
        except StoreUnavailableError:
            assert time.monotonic() < until_s, target.log_end()
        else:
            return


def _written(wire: InfluxWire, value: int) -> None:
    assert wire.write(_BUCKET, b"m v=%di %d" % (value, value * 10**9)) == []


def _kept(wire: InfluxWire) -> list[int]:
    return wire.query(_BUCKET, "select v from m", {}, {"v": int})["v"].tolist()


def _cut_off_in_a_write(folder: Path) -> None:
    """What a kill leaves in the log: the head of an entry, and less than it announces."""
    segments = [one for one in folder.glob("**/wal/*/*/*/_*.wal") if one.stat().st_size]
    with max(segments, key=lambda one: one.stat().st_mtime).open("ab") as file:
        file.write(struct.pack(">BI", 1, 5_000) + bytes(700))


def _two_crashes(services: Services, folder: Path) -> list[int]:
    (influx,), wire = services.targets, _wire(services)
    _answering(influx, wire)
    wire.create_bucket(_BUCKET, 0)
    _written(wire, 1)
    influx.kill()
    _cut_off_in_a_write(folder)
    for value in (2, 3):
        _answering(influx, wire)
        _written(wire, value)
        influx.kill()
    _answering(influx, wire)
    found = _kept(wire)
    wire.close()
    return found


@pytest.mark.stack
@pytest.mark.usefixtures("influx")
def test_what_was_acknowledged_is_kept_over_two_crashes(services: Services, tmp_path: Path) -> None:
    assert _two_crashes(services, tmp_path / "influx") == [1, 2, 3]


@pytest.mark.stack
@pytest.mark.usefixtures("influx")
def test_by_itself_the_database_would_lose_it(services: Services, tmp_path: Path) -> None:
    services.targets[0].before = ()
    # Should this ever fail, the database has been mended, and new-segments.sh is not needed.
    assert _two_crashes(services, tmp_path / "influx") == [1]
