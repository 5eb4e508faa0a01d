"""A real Chromium against the pages on a server of the API's contract."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import uvicorn
from fake_api import create_app
from fake_fleet import FakeFleet
from playwright.sync_api import Browser, Page, expect, sync_playwright

# Flags that keep the browser off the network and off the GPU.
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

_PATIENCE_MS = 20_000
Opener = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is; without one the browser tests are left out, or fail if they must run."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        sentence = "no Chromium here: install Debian's chromium to test the pages in a browser"
        if os.environ.get("PETAWATCH_REQUIRE_BROWSER") == "1":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for a file's tests; each test has a context of its own.

    Not for the whole session: while Playwright is open, no test that has an
    event loop of its own can run in this process.
    """
    expect.set_options(timeout=_PATIENCE_MS)  # its own limit is a quarter of that
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[FakeFleet, str]]:
    """A fleet and the address of its server."""
    fleet = FakeFleet()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(fleet), log_level="warning", ws_per_message_deflate=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    yield fleet, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture
def fleet(served: tuple[FakeFleet, str]) -> Iterator[FakeFleet]:
    """The fleet, healthy at the start of each test."""
    fleet, _ = served
    fleet.variant, fleet.silent = "live", False
    fleet.alerts.reset()
    yield fleet
    fleet.variant, fleet.silent = "live", False


@pytest.fixture
def opened(browser: Browser, served: tuple[FakeFleet, str], fleet: FakeFleet) -> Iterator[Opener]:
    """Opens a page at a path; at the end no page may have complained on its console.

    `policy` keeps the server's Content-Security-Policy, under which a test's
    own expressions cannot run in the page.  Of answers with the status
    `refused` the browser may complain.
    """
    complaints: list[str] = []
    borne: list[str] = []
    with ExitStack() as stack:

        def open_page(
            path: str = "/",
            *,
            width: int = 1_440,
            height: int = 900,
            scheme: str = "dark",
            policy: bool = False,
            refused: int | None = None,
        ) -> Page:
            borne.append(f"the server responded with a status of {refused} ")
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="light" if scheme == "light" else "dark",
                bypass_csp=not policy,
            )
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(_PATIENCE_MS)
            page.on(
                "console",
                lambda said: (
                    complaints.append(said.text) if said.type in ("error", "warning") else None
                ),
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
            page.on(
                "request",
                lambda request: (
                    complaints.append(f"left: {request.url}")
                    if not request.url.startswith(served[1])
                    and not request.url.startswith(("data:", "blob:"))
                    else None
                ),
            )
            page.goto(served[1] + path)
            return page

        yield open_page
    assert [said for said in complaints if not any(words in said for words in borne)] == []
