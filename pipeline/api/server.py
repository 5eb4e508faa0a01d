"""Serves an application with uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from pipeline.api.deps import Api
from pipeline.api.settings import is_loopback

_log = logging.getLogger(__name__)
_DRAIN_S = 3


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the process has its own), telling when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port",
        ) from error


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        # Frames are deflated already; doing it again per viewer costs more than all else.
        ws_per_message_deflate=False,
        ws_max_size=2**16,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )


async def _serve(server: _Server, listening: socket.socket) -> None:
    try:
        await server.serve(sockets=[listening])
    except SystemExit as error:
        # uvicorn ends the process so; whether that is right is not its to say.
        raise RuntimeError("the application did not start; the log says why") from error


async def _asked(stop: asyncio.Event, started: asyncio.Event) -> None:
    """Returns when a started server is to stop: uvicorn cleans up after none that has not."""
    await started.wait()
    await stop.wait()


async def run_server(
    app: FastAPI,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serves until `stop`; `on_ready` gets the port once it listens (0 takes a free one).

    Then viewers are sent away and open requests have 3 s.  Raises OSError when
    it cannot listen, RuntimeError when the application does not start,
    ValueError for an address that the application's guard was not made for.
    """
    api: Api = app.state.api
    if not is_loopback(host) and not api.access.login_required:
        raise ValueError(f"this application was made without a login, so not for {host}")
    listening = _listen(host, port)
    bound: int = listening.getsockname()[1]
    started = asyncio.Event()

    def ready() -> None:
        started.set()
        _log.info("serving host=%s port=%d", host, bound)
        if on_ready is not None:
            on_ready(bound)

    server = _Server(_config(app), ready)
    serving = asyncio.create_task(_serve(server, listening), name="http")
    stopping = asyncio.create_task(_asked(stop, started), name="http-stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        api.hub.stop()
        server.should_exit = True
        await serving
    finally:
        for task in (serving, stopping):
            task.cancel()
        await asyncio.wait({serving, stopping})
        listening.close()
