"""What may come of an attempt, and which answers of HTTP mean which."""

from __future__ import annotations

from collections.abc import Awaitable

import httpx

_NEVER = frozenset({400, 404, 405, 410, 413, 415, 422})
"""Answers after which the same request again is of no use; 401 and 403 may be mended."""
_MOST_DETAIL = 300


class TargetUnavailableError(ConnectionError):
    """The target has not taken it; it may later."""


class TargetRefusedError(ValueError):
    """The target will never take it; the text is its own."""


async def checked(request: Awaitable[httpx.Response]) -> httpx.Response:
    """Awaits an answer of 2xx.  Raises TargetUnavailableError or TargetRefusedError."""
    try:
        answer = await request
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise TargetUnavailableError(type(error).__name__) from error
    if answer.is_success:
        return answer
    detail = f"HTTP {answer.status_code}: {answer.text[:_MOST_DETAIL].strip()}"
    if answer.status_code in _NEVER:
        raise TargetRefusedError(detail)
    raise TargetUnavailableError(detail)
