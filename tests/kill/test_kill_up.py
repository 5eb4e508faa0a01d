"""kill -9 of everything at once, ten times at random moments: nothing acknowledged is lost."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from kill_tools import await_line, differences, end, kill_at_random, runs_for, settings_of, start

from collectors.contract.topics import GPU
from collectors.simulator.sites import make_site

ROUNDS = 10
READY = "Petawatch is at"
ENOUGH = 500


def records_in(bus: Path) -> int:
    """How many records of GPUs have been put on the bus."""
    with closing(sqlite3.connect(f"{bus.as_uri()}?mode=ro", uri=True)) as file:
        [count] = file.execute("SELECT sum(next) FROM logs WHERE topic = ?", (GPU,)).fetchone()
    return count


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_minutes_and_hours_equal_the_oracle_after_ten_kills(tmp_path: Path) -> None:
    rng = random.Random(20)
    data, log = tmp_path / "data", tmp_path / "up.log"
    arguments = ["up", "--site", "demo", "--data", str(data), "--port", "0", "--no-open"]
    arguments += ["--speed", "8"]
    environ = {"PETAWATCH_FLUSH_S": "0.5", "PETAWATCH_PAST_DAYS": "0"}
    said = 0
    for number in range(ROUNDS):
        process = start(arguments, log, environ)
        if number % 5 == 4:
            # Some die while they start, most under load.
            kill_at_random(process, rng, 0.5, 1.5)
        else:
            await_line(process, log, READY, said + 1)
            kill_at_random(process, rng, 0.1, 2.0)
        said = log.read_text().count(READY)
    last = start(arguments, log, environ)
    await_line(last, log, READY, said + 1)
    while records_in(data / "bus.db") <= ENOUGH:
        assert runs_for(last, 0.2)
    end(last)
    records, wrong = await differences(settings_of(data=data), make_site("demo"))
    assert wrong == []
    assert records > ENOUGH
