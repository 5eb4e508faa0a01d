"""What the pages' server sends, without a browser."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from typing import Any

import brotli
import httpx
import pytest
from dash.exceptions import PreventUpdate
from fastapi import FastAPI

from dashboard import app, node_callbacks
from dashboard.api_client import ApiClient, ApiError
from dashboard.app import create_pages, warm_up
from dashboard.node_callbacks import zoomed
from dashboard.words import bytes_text, count, number, percent, with_unit


def an_api() -> FastAPI:
    api = FastAPI()

    @api.get("/api/v1/nodes")
    async def _nodes() -> Any:
        return {"nodes": [{"node": "a01n01"}]}

    return api


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A browser's client of a server with pages."""
    server = an_api()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=server), base_url="http://pages"
    ) as client:
        create_pages(server, api_base="", client=client)
        await warm_up(server)
        yield client


@pytest.mark.parametrize("path", ["/", "/nodes", "/nodes/a01n01"])
async def test_every_page_may_be_opened_first(client: httpx.AsyncClient, path: str):
    answer = await client.get(path)
    assert answer.status_code == 200
    assert 'id="react-entry-point"' in answer.text


async def test_the_document_has_no_inline_script(client: httpx.AsyncClient):
    document = (await client.get("/")).text
    for tag, body in re.findall(r"<script([^>]*)>(.*?)</script>", document, re.DOTALL):
        assert "src=" in tag or 'type="application/json"' in tag
        assert "src=" not in tag or not body.strip()
    assert "http" not in "".join(re.findall(r'(?:src|href)="(https?:)', document))


async def test_an_unknown_address_of_the_api_stays_a_404(client: httpx.AsyncClient):
    answer = await client.get("/api/v1/nonsense")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


async def test_files_are_immutable_and_compressed_and_their_address_names_their_content(
    client: httpx.AsyncClient,
):
    document = (await client.get("/")).text
    for path in re.findall(r'"(/static/[^"]+\.(?:js|css))"', document):
        answer = await client.get(path, headers={"Accept-Encoding": "br"})
        assert answer.headers["content-encoding"] == "br"
        assert "immutable" in answer.headers["cache-control"]
    assert (await client.get("/static/0000000000000000/live.js")).status_code == 404


async def test_component_files_are_compressed_as_the_client_accepts(client: httpx.AsyncClient):
    document = (await client.get("/")).text
    path = next(
        found for found in re.findall(r'src="([^"]+)"', document) if "dash_renderer" in found
    )
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    async with client.stream("GET", path, headers={"Accept-Encoding": "br"}) as answer:
        squeezed = b"".join([part async for part in answer.aiter_raw()])
    assert "content-encoding" not in plain.headers
    assert len(squeezed) < len(plain.content) / 3
    library: Any = brotli
    assert library.decompress(squeezed) == plain.content


def test_every_callback_is_a_coroutine():
    definitions = [
        found
        for module in (app, node_callbacks)
        for found in re.findall(
            r"@dash\.callback\(.*?\n    \)\n    (.*?)\(", inspect.getsource(module), re.DOTALL
        )
    ]
    assert len(definitions) == 4
    assert all(definition.startswith("async def ") for definition in definitions)


async def test_two_servers_of_pages_in_one_process_do_not_meet(client: httpx.AsyncClient):
    other = an_api()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=other), base_url="http://other"
    ) as second:
        create_pages(other, api_base="", client=second)
        await warm_up(other)
        answers = await asyncio.gather(
            *(one.get("/_dash-dependencies") for one in (client, second))
        )
    assert answers[0].json() == answers[1].json()


async def test_the_api_is_asked_and_its_reasons_are_passed_on():
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/gone"):
            return httpx.Response(404, json={"detail": "There is no node 'gone'."})
        if request.url.path.endswith("/broken"):
            return httpx.Response(500, text="<html>")
        if request.url.path.endswith("/away"):
            raise httpx.ConnectError("refused", request=request)
        assert request.url.params.get_list("metric") == ["power_w", "gflop"]
        return httpx.Response(200, json={"series": []})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        api = ApiClient(client, "http://api/")
        assert await api.series("a", ["power_w", "gflop"], "x", "y") == {"series": []}
        for name, words in (
            ("gone", "no node 'gone'"),
            ("broken", "status 500"),
            ("away", "cannot be reached"),
        ):
            with pytest.raises(ApiError, match=words):
                await api.node(name)


def test_a_zoom_is_a_window_and_a_reset_the_range_again():
    moved = {"xaxis.range[0]": "2026-11-24 05:50:12.1234", "xaxis.range[1]": "2026-11-24 05:51"}
    assert zoomed(moved) == ["2026-11-24T05:50:12.123Z", "2026-11-24T05:51:00.000Z"]
    assert zoomed({"xaxis.autorange": True}) is None
    with pytest.raises(PreventUpdate):
        zoomed({"autosize": True})


def test_words_of_numbers():
    assert number(-1234.56, 1) == "−1,234.6"
    assert number(-0.01) == "0"
    assert number(None) == "–"
    assert with_unit(63, "°C") == "63\u2009°C"
    assert percent(1, 4) == "25\u2009%"
    assert percent(1, 0) == "–"
    assert bytes_text(2**31) == "2.0\u2009GiB"
    assert (count(1, "GPU"), count(1_952, "GPU")) == ("1 GPU", "1,952 GPUs")
    assert count(0, "node") == "0 nodes"
