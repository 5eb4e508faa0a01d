"""Who comes in, by which door: the matrix of strangers, people, programs and foreign pages."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from api_parts import Centre, client_of, until
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipeline.api.app import internal_client
from pipeline.api.auth import Access, hash_password
from pipeline.api.server import run_server
from pipeline.api.settings import ApiSettings
from pipeline.settings import Settings

PASSWORD, TOKEN = "correct horse battery", "token-of-a-program"
CLOSED = ApiSettings(
    host="0.0.0.0",  # noqa: S104 (never listened on here)
    password_hash=hash_password(PASSWORD),
    token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
)
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html"}
GUARDED = ("/api/v1/live", "/api/v1/openapi.json", "/metrics", "/", "/static/x.js", "/nowhere")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncGenerator[str]:
    """The application on a free port of loopback, whatever its guard was made for."""
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(run_server(app, "127.0.0.1", 0, stop, on_ready=port.set_result))
    try:
        yield f"127.0.0.1:{await port}"
    finally:
        stop.set()
        await serving


async def _log_in(client: httpx.AsyncClient, password: str = PASSWORD) -> httpx.Response:
    return await client.post("/login", data={"password": password, "next": "/nodes/a"})


def test_start_is_refused_without_a_login() -> None:
    clock = Settings  # never asked
    with pytest.raises(ValueError, match="PETAWATCH_PASSWORD_HASH"):
        Access(ApiSettings(host="192.0.2.1"), clock)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="not one of argon2"):
        Access(ApiSettings(host="::", password_hash="hunter2"), clock)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="SHA-256"):
        Access(ApiSettings(token_sha256="short"), clock)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 8"):
        hash_password("short")


def test_secrets_do_not_show() -> None:
    assert CLOSED.password_hash
    assert CLOSED.password_hash not in repr(CLOSED)
    assert CLOSED.token_sha256
    assert CLOSED.token_sha256 not in repr(CLOSED)


def test_settings_of_the_product() -> None:
    made = ApiSettings.of(Settings(api_token=TOKEN, live_history_min=5))
    assert made.token_sha256 == CLOSED.token_sha256
    assert made.history_minutes == 5
    assert not made.login_required


@pytest.mark.parametrize("path", GUARDED)
async def test_strangers_are_turned_away_everywhere(centre: Centre, path: str) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        answer = await client.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
        page = await client.get(path, headers=HTML)
        assert (page.status_code, page.headers["location"]) == (303, f"/login?next={path}")
        wrong = await client.get(path, headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        assert (await client.post(path)).status_code == 401


async def test_what_is_open_to_all(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert "bus.db" not in ready.text
        form = await client.get("/login", params={"next": '"><script>'})
        assert form.status_code == 200
        assert "<script" not in form.text


async def test_programs_come_in_by_token(centre: Centre) -> None:
    app = centre.app(CLOSED)
    async with client_of(app, "centre.example") as client:
        assert (await client.get("/api/v1/live", headers=BEARER)).status_code == 200
        assert (await client.get("/metrics", headers=BEARER)).status_code == 200
        async with internal_client(app) as pages:
            assert (await pages.get("/api/v1/live")).status_code == 200


async def test_people_come_in_by_password_and_go(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        assert (await _log_in(client, "wrong password")).status_code == 401
        assert (await client.get("/api/v1/live")).status_code == 401
        answer = await _log_in(client)
        assert (answer.status_code, answer.headers["location"]) == (303, "/nodes/a")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert (await client.get("/api/v1/live")).status_code == 200
        token = client.cookies["petawatch"]
        assert (await client.post("/logout")).status_code == 303
        client.cookies.set("petawatch", token)
        assert (await client.get("/api/v1/live")).status_code == 401


async def test_under_tls_the_cookie_is_bound_to_it(centre: Centre) -> None:
    app = centre.app(CLOSED)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="https://centre.example"
        ) as client,
    ):
        cookie = (await _log_in(client)).headers["set-cookie"]
        assert cookie.startswith("__Host-petawatch=")
        assert "Secure" in cookie
        assert (await client.get("/api/v1/live")).status_code == 200


async def test_sessions_expire(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        await _log_in(client)
        assert (await client.get("/api/v1/live")).status_code == 200
        centre.clock.ahead_us += int(12 * 3600e6)
        assert (await client.get("/api/v1/live")).status_code == 401


async def test_login_leads_nowhere_else(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        for target in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "javascript:x",
        ):
            answer = await client.post("/login", data={"password": PASSWORD, "next": target})
            assert answer.headers["location"] == "/"


async def test_guessing_is_slowed_down(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        answers = [(await _log_in(client, f"wrong {n}")).status_code for n in range(6)]
        assert answers == [401] * 5 + [429]
        refused = await _log_in(client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        centre.clock.ahead_us += 61_000_000
        assert (await _log_in(client)).status_code == 303


async def test_sockets_need_a_login_and_end_with_it(centre: Centre) -> None:
    async with served(centre.app(CLOSED)) as address:
        url = f"ws://{address}/api/v1/live/ws"
        with pytest.raises(InvalidStatus):
            await connect(url)
        async with connect(url, additional_headers=BEARER) as program:
            sent = await centre.publish_frame()
            assert await program.recv() == sent
        # A connection that is kept may be closed by the server just when it is used again.
        once = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=f"http://{address}", limits=once) as client:
            await _log_in(client)
            cookie = {"Cookie": f"petawatch={client.cookies['petawatch']}"}
            async with connect(url, additional_headers=cookie) as person:
                assert await person.recv() == sent
                await client.post("/logout")
                with pytest.raises(ConnectionClosed) as ended:
                    await person.recv()
                assert ended.value.rcvd is not None
                assert ended.value.rcvd.code == 4401
            with pytest.raises(InvalidStatus):
                await connect(url, additional_headers=cookie)


async def test_sockets_end_with_an_expired_session(centre: Centre) -> None:
    async with served(centre.app(CLOSED)) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            await _log_in(client)
            cookie = {"Cookie": f"petawatch={client.cookies['petawatch']}"}
        async with connect(f"ws://{address}/api/v1/live/ws", additional_headers=cookie) as person:
            centre.clock.ahead_us += int(13 * 3600e6)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(person.recv(), 60)


async def test_foreign_pages_are_refused(centre: Centre) -> None:
    async with client_of(centre.app(), "127.0.0.1:8080") as client:
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "http://127.0.0.1:9999"},
            {"Origin": "null"},
        ):
            assert (await client.post("/logout", headers=headers)).status_code == 403
        own = {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post("/logout", headers=own)).status_code == 303
    app = centre.app()
    async with served(app) as address:
        url = f"ws://{address}/api/v1/live/ws"
        with pytest.raises(InvalidStatus):
            await connect(url, origin="http://evil.example")  # pyright: ignore[reportArgumentType]
        async with connect(url, origin=f"http://{address}"):  # pyright: ignore[reportArgumentType]
            await until(lambda: app.state.api.hub.viewers == 1)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "evil:8080", "[::1"]
)
async def test_on_loopback_other_names_are_refused(centre: Centre, host: str) -> None:
    async with client_of(centre.app()) as client:
        answer = await client.get("/api/v1/live", headers={"Host": host})
        assert answer.status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "LOCALHOST:80"])
async def test_on_loopback_its_own_names_need_no_login(centre: Centre, host: str) -> None:
    async with client_of(centre.app()) as client:
        assert (await client.get("/api/v1/live", headers={"Host": host})).status_code == 200


async def test_bodies_are_bounded(centre: Centre) -> None:
    async with client_of(centre.app(CLOSED), "centre.example") as client:
        body = b"password=" + b"x" * 2**20
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await client.post("/login", content=body, headers=form)).status_code == 413

        async def pieces() -> AsyncGenerator[bytes]:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        assert (await client.post("/login", content=pieces(), headers=form)).status_code == 413


async def test_every_answer_has_the_security_headers(centre: Centre) -> None:
    async with client_of(centre.app()) as client:
        for path in ("/api/v1/live", "/nowhere", "/healthz"):
            headers = (await client.get(path)).headers
            assert "default-src 'self';" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
        assert (await client.get("/api/v1/live")).headers["cache-control"] == "no-store"


async def test_what_is_mounted_later_is_guarded_too(centre: Centre) -> None:
    app = centre.app(CLOSED)
    pages = FastAPI(openapi_url=None)

    @pages.get("/page")
    async def page() -> str:  # pyright: ignore[reportUnusedFunction]
        return "secret"

    app.mount("", pages)
    async with client_of(app, "centre.example") as client:
        assert (await client.get("/page")).status_code == 401
        assert (await client.get("/page", headers=BEARER)).text == '"secret"'


async def test_no_server_beyond_loopback_without_a_login(centre: Centre) -> None:
    with pytest.raises(ValueError, match="without a login"):
        await run_server(centre.app(), "0.0.0.0", 0, asyncio.Event())  # noqa: S104


async def test_a_taken_port_is_named(centre: Centre) -> None:
    async with served(centre.app()) as address:
        port = int(address.partition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await run_server(centre.app(), "127.0.0.1", port, asyncio.Event())


async def test_stopped_at_once_it_cleans_up(centre: Centre) -> None:
    stop = asyncio.Event()
    stop.set()
    await asyncio.wait_for(run_server(centre.app(), "127.0.0.1", 0, stop), 60)
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "live-hub" not in names


async def test_an_application_that_does_not_start_is_an_error(centre: Centre) -> None:
    app = centre.app()

    async def fails() -> None:
        raise LookupError("no pages")

    app.state.on_start.append(fails)
    with pytest.raises(RuntimeError, match="did not start"):
        await asyncio.wait_for(run_server(app, "127.0.0.1", 0, asyncio.Event()), 60)
