"""A real Alertmanager: one alert per incident, graver, refreshed, resolved; and what it routes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from notify_tools import Receiver, incident, receiver, targets_file

from collectors.kit.clock import SystemClock
from pipeline.notify.alertmanager import AlertmanagerSender
from pipeline.notify.notice import Notice
from pipeline.notify.targets import AlertmanagerTarget, Secrets, load_targets

_CLOCK = SystemClock()
_SHIPPED = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
_LISTENS = re.compile(r"[Ll]istening on\"? .*?address=(127\.0\.0\.1:\d+)")
pytestmark = pytest.mark.stack


def _binary() -> str:
    found = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if found is None:
        missing = "no Alertmanager: install the Debian package prometheus-alertmanager"
        if os.environ.get("PETAWATCH_REQUIRE_STACK") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@asynccontextmanager
async def alertmanager(folder: Path, told: Receiver) -> AsyncGenerator[str]:
    """Alertmanager with the configuration that is shipped, its receivers' address put in."""
    text = _SHIPPED.read_text(encoding="utf-8")
    for address in ("http://127.0.0.1:9000/on-call", "http://127.0.0.1:9000/tenants"):
        assert address in text
        text = text.replace(address, told.url)
    text = text.replace("group_wait: 10s", "group_wait: 100ms")
    text = text.replace("group_interval: 1m", "group_interval: 200ms")
    config = folder / "alertmanager.yml"
    config.write_text(text, encoding="utf-8")
    said = folder / "alertmanager.log"
    log = said.open("wb")
    process = await asyncio.create_subprocess_exec(
        _binary(), f"--config.file={config}", f"--storage.path={folder}/data",
        "--web.listen-address=127.0.0.1:0", "--cluster.listen-address=",
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        url = ""
        async with httpx.AsyncClient() as client:
            while not await _ready(client, url):
                assert process.returncode is None, said.read_text()
                # It takes a free port itself, and says which.
                listens = _LISTENS.search(said.read_text())
                url = f"http://{listens[1]}" if listens else ""
                await _CLOCK.sleep(0.05)
        yield url
    finally:
        process.kill()
        await process.wait()
        log.close()


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return bool(url) and (await client.get(f"{url}/-/ready")).is_success
    except httpx.TransportError:
        return False


async def _active(url: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/api/v2/alerts", params={"active": "true"})
    return answer.raise_for_status().json()


async def test_an_incident_is_one_alert_from_its_opening_to_its_end(tmp_path: Path) -> None:
    with receiver() as told:
        async with alertmanager(tmp_path, told) as url:
            text = (
                f'[[targets]]\nname = "am"\nkind = "alertmanager"\nurl = "{url}"\nrefresh_s = 60\n'
            )
            (target,) = load_targets(targets_file(tmp_path, text), {})
            assert isinstance(target, AlertmanagerTarget)
            sender = AlertmanagerSender(target, Secrets({}), _CLOCK)
            now_us = _CLOCK.wall_us()
            one = incident(severity="warning", opened_us=now_us, runbook="gpu-lost")
            await sender.send(Notice(one, "opened", "Demo", "https://watch.example"))
            await told.wait(1)
            await sender.send(Notice(one, "opened", "Demo", "https://watch.example"))
            (alert,) = await _active(url)
            assert alert["labels"] == {
                "alertname": "PetawatchLost", "incident": "i1", "family": "lost",
                "severity": "warning", "concerns": "operator", "site": "Demo",
            }  # fmt: skip
            notes = alert["annotations"]
            assert notes["runbook_url"] == "https://watch.example/runbooks/gpu-lost"
            assert alert["generatorURL"] == "https://watch.example/alerts/i1"

            worse = incident(notice=2, revision=2, opened_us=now_us, gpus=8)
            await sender.send(Notice(worse, "worse", "Demo"))
            (alert,) = await _active(url)
            assert alert["labels"]["severity"] == "critical"
            before = alert["endsAt"]
            restarted = AlertmanagerSender(target, Secrets({}), _CLOCK)
            restarted.keep([Notice(worse, "worse", "Demo")])
            await restarted.refresh()
            (alert,) = await _active(url)
            assert alert["endsAt"] > before

            over = incident(notice=3, revision=3, opened_us=now_us, state="resolved")
            await restarted.send(Notice(over, "resolved", "Demo"))
            assert await _active(url) == []
            await sender.close()
            await restarted.close()
        states = {(body["status"], body["groupLabels"].get("incident")) for body in told.bodies()}
        assert ("firing", "i1") in states


async def test_a_tenants_own_fault_goes_to_tenants_not_to_on_call(tmp_path: Path) -> None:
    with receiver() as told:
        async with alertmanager(tmp_path, told) as url:
            target = AlertmanagerTarget(name="am", url=url)
            sender = AlertmanagerSender(target, Secrets({}), _CLOCK)
            one = incident(concerns="tenant", opened_us=_CLOCK.wall_us())
            await sender.send(Notice(one, "opened", "Demo"))
            await told.wait(1)
            await sender.close()
        assert told.bodies()[0]["receiver"] == "tenants"
        assert told.bodies()[0]["commonLabels"]["tenant"] == "acme"
