"""The undisturbed run: `chaos_reference.py SITE SEED START_US HOURS INTERVAL_S FOLDER` leaves its minutes and
`expected.json`, its ledger, there."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from chaos_ledger import simulation, undisturbed, write_ledger


def main() -> None:
    """Raises what the run raises."""
    site, seed, start_us, hours, interval_s, folder = sys.argv[1:]
    options = simulation(site, int(seed), int(start_us), float(hours), float(interval_s))
    ledger = asyncio.run(undisturbed(Path(folder), options))
    write_ledger(Path(folder) / "expected.json", ledger)


if __name__ == "__main__":
    main()
