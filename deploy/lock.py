"""Renews the lock files: every package by version and hash, for any platform, no index named.

.venv/bin/python deploy/lock.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "requirements-dev.lock": ("pyproject.toml", "--all-extras", "--group", "dev"),
    "requirements-build.lock": ("--group", "build"),
    "requirements-agent.lock": ("pyproject.toml",),
    "requirements.lock": ("pyproject.toml", "--all-extras"),
}
"""What each is made from.  The first holds the versions of the others to its own."""


def compile_lock(name: str, asked: tuple[str, ...]) -> None:
    """Resolves one lock; versions already locked stay while they satisfy what is asked."""
    first = next(iter(LOCKS))
    held = () if name == first else ("--constraint", first)
    subprocess.run(  # noqa: S603
        [
            sys.executable, "-m", "uv", "pip", "compile", *asked, *held, "--universal",
            "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url",
            "--no-annotate", "--custom-compile-command", "make lock", "--quiet", "--output-file", name,
        ],
        cwd=ROOT,
        check=True,
    )  # fmt: skip


def main() -> None:
    """Renews all of them."""
    for name, asked in LOCKS.items():
        compile_lock(name, asked)
        print(f"{name}: {(ROOT / name).read_text().count('==')} packages")


if __name__ == "__main__":
    main()
