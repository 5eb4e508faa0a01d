"""A bus with a log of incidents, and a receiver that writes down what it gets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from collectors.contract.alerts import Incident, Member, Subject
from collectors.contract.inventory import InstalledNode, Inventory

GPU = Subject("gpu", "n1/0", "A", "r1", "n1", "0000:01:00.0")
SITE = Inventory(
    "demo", "Demo", "Asia/Hong_Kong", "FP16", "dense", "boost clock",
    (InstalledNode("n1", "A", "r1", "H800-SXM", (1,), 1.0), InstalledNode("n2", "A", "r1", "H800-SXM", (1,), 1.0)),
)  # fmt: skip


def incident(
    name: str = "i1", *, notice: int = 1, revision: int = 1, state: str = "open",
    severity: str = "critical", subject: Subject = GPU, **more: Any,
) -> Incident:  # fmt: skip
    """An incident of one GPU."""
    member = Member("f1", "xid_79", severity, subject, 10)
    cause = more.pop("cause", "off_bus")
    wanted: dict[str, Any] = {"tenants": ("acme",), "members": (member,), "gpus": 1, **more}
    opened_us = more.pop("opened_us", 1_700_000_000_000_000)
    wanted.pop("opened_us", None)
    return Incident(
        name, state, severity, "N1/0: off the bus", "lost", cause, subject, opened_us,
        opened_us, revision, notice, **wanted,
    )  # fmt: skip


@dataclass
class Receiver:
    """What came, and what is answered: statuses are used up in order, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list[int])
    got: list[tuple[dict[str, str], bytes]] = field(
        default_factory=list[tuple[dict[str, str], bytes]]
    )
    changed: threading.Condition = field(default_factory=threading.Condition)

    def bodies(self) -> list[dict[str, Any]]:
        """What was taken, as JSON."""
        with self.changed:
            return [json.loads(body) for _, body in self.got]

    def sent(self) -> list[tuple[str, str]]:
        """(idempotency key, kind) of what was taken, in order."""
        return [(body["key"], body["kind"]) for body in self.bodies()]

    async def wait(self, count: int, timeout_s: float = 60.0) -> None:
        """Until so many have been taken."""

        def until() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: len(self.got) >= count, timeout_s)

        assert await asyncio.to_thread(until), f"{len(self.got)} of {count} came"


@contextmanager
def receiver(*statuses: int) -> Generator[Receiver]:
    """A real HTTP receiver on loopback."""
    told = Receiver(statuses=list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with told.changed:
                status = told.statuses.pop(0) if told.statuses else 200
                if status == 200:
                    told.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                told.changed.notify_all()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"said no" if status != 200 else b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def targets_file(folder: Path, text: str) -> Path:
    """A file of targets."""
    path = folder / "notify.toml"
    path.write_text(text, encoding="utf-8")
    return path
