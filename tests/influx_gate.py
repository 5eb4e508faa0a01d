"""Between a store and its InfluxDB: what networks and busy servers do."""

from __future__ import annotations

import asyncio


class Gate:
    """A TCP relay to the server, which can be shut and opened, that may stall, or let through no
    more than so many bytes a second."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.port = 0
        self.stalled = False
        self.bytes_a_second: int | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for relay in list(self._relays):
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(
                    self._relay(reader, there_writer), self._relay(there_reader, writer)
                )
            finally:
                there_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._relays.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self.bytes_a_second or 65_536):
            if self.stalled:
                await asyncio.Event().wait()
            if self.bytes_a_second is not None:
                await asyncio.sleep(len(data) / self.bytes_a_second)
            writer.write(data)
            await writer.drain()
        writer.close()
