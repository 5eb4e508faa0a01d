"""Reads the HTTP API for the pages; the only way by which they get anything.

A failure is one sentence for the person who looks at the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

import httpx

_TIMEOUT_S = 10.0


class ApiError(Exception):
    """The API gave no answer that a page can show; the message says why, in words."""


class ApiClient:
    """Typed questions to `/api/v1`, JSON objects as answers.

    `base` is the API's address up to `/api/v1`, which may be empty when
    `client` has a base address of its own.
    """

    def __init__(self, client: httpx.AsyncClient, base: str) -> None:
        self._client = client
        self._base = base.rstrip("/")

    async def get(self, path: str, **parameters: str | Sequence[str]) -> Any:
        """The JSON of `GET /api/v1<path>`; raises ApiError."""
        query = {name: value for name, value in parameters.items() if value}
        try:
            answer = await self._client.get(
                f"{self._base}/api/v1{path}",
                params=cast("dict[str, Any]", query),
                timeout=_TIMEOUT_S,
            )
        except httpx.TimeoutException as error:
            raise ApiError("The API did not answer within 10 seconds.") from error
        except httpx.HTTPError as error:
            raise ApiError("The API cannot be reached.") from error
        if answer.status_code >= 400:
            raise ApiError(_reason(answer))
        try:
            return answer.json()
        except ValueError as error:
            raise ApiError("The API's answer is not JSON.") from error

    async def nodes(self) -> list[dict[str, Any]]:
        """Every node of the inventory, as the API lists them."""
        return _rows(await self.get("/nodes"), "nodes")

    async def node(self, name: str) -> dict[str, Any]:
        """One node with its GPUs and their newest values."""
        return cast("dict[str, Any]", await self.get(f"/nodes/{name}"))

    async def events(self, node: str, limit: int) -> dict[str, Any]:
        """The node's newest events, and how many there are."""
        answer = await self.get("/events", node=node, limit=str(limit))
        return cast("dict[str, Any]", answer)

    async def incident(self, name: str) -> dict[str, Any]:
        """An incident with its alerts, comments, deliveries and acts."""
        return cast("dict[str, Any]", await self.get(f"/incidents/{quote(name, safe='')}"))

    async def series(
        self, node: str, metrics: Sequence[str], start: str, end: str, resolution: str = "auto"
    ) -> dict[str, Any]:
        """The node's series of `metrics` in [start, end), by itself at a resolution the API picks."""
        answer = await self.get(
            "/series",
            **{"node": node, "metric": list(metrics), "from": start, "to": end},
            resolution=resolution,
        )
        return cast("dict[str, Any]", answer)


def _rows(answer: Any, key: str) -> list[dict[str, Any]]:
    found = cast("dict[str, Any]", answer).get(key, []) if isinstance(answer, dict) else answer
    return cast("list[dict[str, Any]]", found)


def _reason(answer: httpx.Response) -> str:
    """The problem's own words where the API gave some, else the status."""
    try:
        body = cast("dict[str, Any]", answer.json())
        text = body.get("detail") or body.get("title")
    except (ValueError, AttributeError):
        text = None
    return text if isinstance(text, str) else f"The API answered with status {answer.status_code}."
