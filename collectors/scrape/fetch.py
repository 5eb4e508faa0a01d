"""Pages over HTTP: kept connections, bounded in number, time and size.  The only file with aiohttp."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import TracebackType

import aiohttp

_CONNECT_S = 5.0
_LARGEST = 16 * 2**20


class FetchError(RuntimeError):
    """The page did not come; the message says why, without the address."""


class Fetcher:
    """An asynchronous context; at most `at_once` pages are under way.  `ca` is a file of authorities for https, None for the system's.

    Credentials in an address are sent as basic authentication.
    """

    def __init__(self, *, timeout_s: float, at_once: int, ca: Path | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=_CONNECT_S)
        self._ca = ca
        self._gate = asyncio.Semaphore(at_once)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetcher:
        context = ssl.create_default_context(cafile=None if self._ca is None else str(self._ca))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=90, ssl=context)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            # Packing costs both ends more than a network of one centre does.
            headers={"Accept-Encoding": "identity", "Accept": "text/plain"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str) -> bytes:
        """The page's body.  Raises FetchError."""
        if self._session is None:
            raise FetchError("not open")
        try:
            async with self._gate, self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise FetchError(f"answers with status {answer.status}")
                return await _body(answer)
        except TimeoutError as error:
            raise FetchError("does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise FetchError(str(error) or type(error).__name__) from error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > _LARGEST:
            raise FetchError(f"its page is larger than {_LARGEST // 2**20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)
