"""The undisturbed run: `chaos_reference.py SITE SEED START_US HOURS INTERVAL_S FILE` writes its ledger there."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from chaos_ledger import simulation, undisturbed, write_ledger


def main() -> None:
    """Raises what the run raises."""
    site, seed, start_us, hours, interval_s, file = sys.argv[1:]
    options = simulation(site, int(seed), int(start_us), float(hours), float(interval_s))
    with tempfile.TemporaryDirectory(prefix="petawatch-undisturbed-") as folder:
        write_ledger(Path(file), asyncio.run(undisturbed(Path(folder), options)))


if __name__ == "__main__":
    main()
