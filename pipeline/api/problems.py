"""Errors as problem+json (RFC 9457): what was wrong, and what to write instead."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from collectors.contract.bus import BusUnavailableError
from pipeline.series.port import StoreUnavailableError

MEDIA_TYPE = "application/problem+json"
_PARTS = {BusUnavailableError: "bus", StoreUnavailableError: "series store"}
_log = logging.getLogger(__name__)


class ProblemError(HTTPException):
    """A request that cannot be served; `detail` tells the caller what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def problem_body(status: int, detail: str, **extra: Any) -> bytes:
    """The JSON of a problem."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **extra}
    return orjson.dumps(body)


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
) -> Response:
    """A problem as a response."""
    body = problem_body(status, detail, **extra)
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """` Did you mean …?` with the nearest known names, or nothing."""
    near = difflib.get_close_matches(wrong, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, wrong: str, known: Iterable[str], status: int = 404) -> ProblemError:
    """There is no such thing; names the nearest."""
    return ProblemError(status, f"There is no {kind} {wrong!r}.{suggestion(wrong, known)}")


def _sentence(error: Mapping[str, Any], allowed: Sequence[str]) -> str:
    where = [str(part) for part in error.get("loc", ())]
    name = where[-1] if where else "request"
    if error.get("type") == "extra_forbidden":
        return f"There is no parameter {name!r}.{suggestion(name, allowed)}"
    return f"{name}: {error.get('msg', 'is not valid')}."


def _parameters(request: Request) -> list[str]:
    """The query parameters that the route's OpenAPI names."""
    route: Any = request.scope.get("route")
    path = getattr(route, "path", "")
    found = request.app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    return [parameter["name"] for parameter in found.get("parameters", ())]


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class alone)
    return problem(error.status_code, str(error.detail), error.headers)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    allowed = _parameters(request)
    sentences = [_sentence(one, allowed) for one in error.errors()]
    return problem(422, " ".join(sentences), errors=sentences)


async def _on_away(_: Request, error: Exception) -> Response:
    """The bus, the series store or the books are away: each has an error of this kind."""
    _log.warning("part_unavailable error=%s", type(error).__name__)
    part = next((text for kind, text in _PARTS.items() if isinstance(error, kind)), "ledger")
    text = f"The {part} does not answer now; try again in a few seconds."
    return problem(503, text, {"Retry-After": "5"})


async def _on_any(_: Request, error: Exception) -> Response:
    _log.error("request_failed", exc_info=error)
    return problem(500, "The request failed here; the server's log says why.")


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(ConnectionError, _on_away)
    app.add_exception_handler(Exception, _on_any)
