"""The Live page in a real browser: what it shows is what the frame says, and it never lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_fleet import FakeFleet
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]


def wait_frames(page: Page, count: int = 2) -> None:
    """Returns when the page has shown that many frames."""
    page.wait_for_function(
        f"window.__live?.n >= {count} && document.getElementById('lv-pflops')?.textContent"
    )


def test_the_pflops_shown_are_those_of_the_frame(opened: Opener):
    page = opened()
    wait_frames(page)
    shown, delivered, nameplate = page.evaluate(
        "[document.getElementById('lv-pflops').textContent, window.__live.header.pflops_delivered,"
        " document.getElementById('lv-nameplate-value').textContent]"
    )
    assert shown == f"{delivered:,.1f}"
    assert nameplate == "1,302.8"
    expect(page.locator("#lv-bounds")).to_contain_text("bounds of the measurement")


def test_the_waterfall_is_nested_and_names_each_drop(opened: Opener):
    page = opened()
    wait_frames(page)
    steps = ("nameplate", "reporting", "allocated", "active", "delivered")
    widths = [page.locator(f"#lv-{step}-bar").bounding_box() for step in steps]
    found = [box["width"] for box in widths if box]
    assert len(found) == 5
    assert found == sorted(found, reverse=True)
    for step, words in (("reporting", "down or not reporting"), ("delivered", "lost while active")):
        expect(page.locator(f"#lv-{step}-drop")).to_contain_text(words)


def test_simulated_data_says_so_and_partial_reporting_too(opened: Opener, fleet: FakeFleet):
    fleet.variant = "partial"
    page = opened()
    wait_frames(page)
    expect(page.locator("#pw-origin")).to_have_text("Simulated data")
    expect(page.locator("#pw-pill-text")).to_contain_text("of 1,952 reporting")


def test_when_frames_stop_the_page_says_how_old_it_is_and_recovers(
    opened: Opener, fleet: FakeFleet
):
    page = opened()
    wait_frames(page)
    fleet.silent = True
    expect(page.locator("#pw-pill")).to_have_attribute("data-state", "stale")
    expect(page.locator("#pw-pill-text")).to_contain_text("last sample")
    assert float(page.locator("#lv-pflops").evaluate("e => getComputedStyle(e).opacity")) <= 0.5
    fleet.silent = False
    expect(page.locator("#pw-pill")).to_have_attribute("data-state", "partial")


def test_a_lost_connection_is_made_again(opened: Opener, fleet: FakeFleet):
    page = opened()
    wait_frames(page)
    before = page.evaluate("window.__live.n")
    fleet.closing = True
    page.wait_for_function("window.__live.connections >= 2")
    page.wait_for_function(f"window.__live.n > {before} + 3")


def test_before_the_first_sample_the_page_waits_in_words(opened: Opener, fleet: FakeFleet):
    fleet.variant = "starting"
    page = opened()
    expect(page.locator("#pw-pill-text")).to_have_text("Starting · waiting for the first samples")
    expect(page.locator("#lv-pflops")).to_have_text("")


def test_what_is_not_measured_is_a_dash_and_an_estimate_stays_apart(
    opened: Opener, fleet: FakeFleet
):
    fleet.variant = "absent"
    page = opened()
    wait_frames(page)
    expect(page.locator("#lv-pflops")).to_have_text("–")
    expect(page.locator("#lv-power")).to_have_text("–")
    expect(page.locator("#lv-estimated")).to_contain_text("estimated, not counted")
    expect(page.locator("#lv-delivered-drop")).to_have_text("not measured")


def test_the_theme_follows_the_system_and_a_choice_is_remembered(opened: Opener):
    page = opened(scheme="light")
    wait_frames(page)
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.click("#pw-theme")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    wait_frames(page)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_the_keyboard_reaches_a_node_through_the_map(opened: Opener):
    page = opened()
    wait_frames(page)
    page.focus("#lv-map")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#lv-tip")).to_contain_text("a01n02·2")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("a01n02")
    assert page.url.endswith("/nodes/a01n02")


def test_every_mode_of_the_map_draws_and_has_a_legend(opened: Opener):
    page = opened()
    wait_frames(page)
    pictures: set[str] = set()
    for mode in ("temperature", "utilization", "power", "delivered", "tenant"):
        page.click(f"[data-mode={mode}]")
        expect(page.locator("#lv-legend")).to_contain_text("not reporting")
        pictures.add(page.evaluate("document.getElementById('lv-map').toDataURL()"))
    assert len(pictures) == 5
    expect(page.locator("#lv-legend")).to_contain_text("Meridian Language Models")


@pytest.mark.parametrize("path", ["/", "/nodes", "/nodes/a03n02"])
def test_a_phone_scrolls_down_only(opened: Opener, path: str):
    page = opened(path, width=390, height=844)
    page.wait_for_function("window.__live?.n >= 2 && document.querySelector('#pw-page h1')")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize(
    ("path", "ready"),
    [("/", "#lv-attention-rows tr"), ("/nodes/a03n02", "#nd-charts .scatterlayer .trace")],
)
def test_the_pages_need_no_inline_script_and_no_eval(opened: Opener, path: str, ready: str):
    page = opened(path, policy=True)
    expect(page.locator(ready).first).to_be_attached()


def test_dash_opens_no_socket_of_its_own(opened: Opener):
    page = opened("/nodes")
    page.wait_for_function("window.__live?.n >= 2 && document.querySelector('#nd-list tr')")
    sockets: list[str] = []
    page.on("websocket", lambda opened_socket: sockets.append(opened_socket.url))
    page.reload()
    page.wait_for_function("window.__live?.n >= 2 && document.querySelector('#nd-list tr')")
    assert {url.rpartition("/api")[2] for url in sockets} == {"/v1/live/ws"}
