"""What the whole embedded product costs: CPU and memory of `petawatch up` with one open page.

    python -m benchmarks.up [--gpus 64,1952] [--seconds 60] [--settle 30] [--json]

Needs Chromium; the browser's own CPU is not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.records import SITES

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@contextmanager
def running(site: str, folder: Path) -> Generator[tuple[psutil.Process, str, float]]:
    """The process, the address that it says, and the monotonic time of its start."""
    command = [sys.executable, "-m", "benchmarks.up", "--serve", site, "--data", str(folder)]
    began_s = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        said = process.stdout.readline().decode() if process.stdout else ""
        address = re.search(r"http://\S+", said)
        if address is None:
            raise RuntimeError((folder / "log").read_text())
        yield psutil.Process(process.pid), address.group(), began_s
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def measure(gpus: int, seconds: float, settle_s: float, page: Page) -> dict[str, float]:
    """One row: cores used, resident memory, and how soon the page had data."""
    with tempfile.TemporaryDirectory() as folder:
        site = SITES.get(gpus, f"synthetic:{gpus}")
        with running(site, Path(folder)) as (process, url, began_s):
            page.goto(url)
            page.wait_for_function("window.__live?.header?.pflops_delivered > 0", timeout=120_000)
            first_s = time.monotonic() - began_s
            page.wait_for_timeout(settle_s * 1_000)
            cpu_s, at_s = sum(process.cpu_times()[:2]), time.monotonic()
            page.wait_for_timeout(seconds * 1_000)
            cpu_s = sum(process.cpu_times()[:2]) - cpu_s
            cores = cpu_s / (time.monotonic() - at_s)
            return {
                "gpus": gpus,
                "cores": round(cores, 3),
                "rss_mb": round(process.memory_info().rss / 1e6, 1),
                "first_data_s": round(first_s, 2),
            }


def main() -> None:
    """Prints a line per size; with `--json` the last line is one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", default="1952")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle", type=float, default=30.0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        from pipeline.commands.up import up  # noqa: PLC0415 -- only the process that serves

        up(["--site", given.serve, "--data", given.data, "--port", "0", "--no-open"])
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium here: install Debian's chromium")
    rows: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        for text in given.gpus.split(","):
            page = browser.new_context(bypass_csp=True).new_page()
            rows.append(measure(int(text), given.seconds, given.settle, page))
            print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
        browser.close()
    if given.as_json:
        print(json.dumps({"benchmark": "up", "results": rows}))


if __name__ == "__main__":
    main()
