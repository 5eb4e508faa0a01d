"""The Usage page in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]
_THIN = "\u2009"


def wait_charts(page: Page) -> None:
    """Returns when both charts are drawn."""
    page.wait_for_function("document.querySelectorAll('#us-days .trace').length === 3")
    page.wait_for_function("document.querySelectorAll('#us-hours .hm image').length === 1")


def test_a_month_shows_the_way_down_with_every_drop(opened: Opener):
    page = opened("/usage/2026-11", policy=False)
    wait_charts(page)
    steps = page.locator(".us-step th").all_text_contents()
    assert steps == ["Installed", "Reporting", "Allocated", "Active", "Delivered"]
    drops = page.locator(".us-drop th").all_text_contents()
    assert [text.removeprefix("− ") for text in drops] == [
        "down", "not observed", "in maintenance", "held by nobody", "held, and idle",
        "below nameplate while active",
    ]  # fmt: skip
    expect(page.locator(".us-tiles")).to_contain_text(f"325.7{_THIN}PFLOPS")
    expect(page.locator(".us-standing")).to_have_text("Provisional")
    widths = page.evaluate(
        "[...document.querySelectorAll('.us-step .us-fill')].map(e => e.getBoundingClientRect().width)"
    )
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] / widths[0] == pytest.approx(0.25, abs=0.01)
    legend, tick = page.locator("#us-days .legendtext"), page.locator("#us-days .xtick text")
    colour = "element => getComputedStyle(element).fill"
    assert legend.first.evaluate(colour) == tick.first.evaluate(colour)
    assert legend.first.evaluate(colour) != "rgb(68, 68, 68)"  # Plotly's own, for white paper


def test_tenants_are_ranked_and_what_is_absent_is_a_dash(opened: Opener):
    page = opened("/usage/2026-11")
    rows = page.locator(".us-tenants tbody tr")
    expect(rows).to_have_count(331)
    cells = rows.first.locator("th, td").all_text_contents()
    assert cells[:5] == ["1", "tenant-1", "10,000", f"10.0{_THIN}%", "6,000"]
    expect(rows.nth(2).locator("td").nth(6)).to_have_text("–")
    expect(page.locator(".us-tenants tfoot")).to_contain_text("All (simulated)")
    expect(page.get_by_text("Held and idle")).to_be_visible()
    expect(page.locator("text=48009")).to_be_visible()


def test_another_month_is_chosen_and_may_be_final(opened: Opener):
    page = opened("/usage")
    expect(page.locator("h1")).to_have_text("Usage, November 2026")
    page.get_by_role("link", name="Oct 2026").click()
    expect(page.locator("h1")).to_have_text("Usage, October 2026")
    expect(page.locator(".us-standing")).to_have_text("Final")
    link = page.get_by_role("link", name="CSV to be signed off")
    expect(link).to_have_attribute("href", "/api/v1/usage/monthly.csv?month=2026-10")
    assert page.url.endswith("/usage/2026-10")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/usage/2026-06", "The ledger has nothing of June 2026."),
        ("/usage/2026-07", "The books do not answer now."),
        ("/usage/2026-13", "A month is written like 2026-10."),
    ],
)
def test_what_cannot_be_shown_says_why(opened: Opener, path: str, said: str):
    page = opened(path)
    expect(page.locator(".nd-trouble")).to_have_text(said)


@pytest.mark.parametrize("width", [390, 1_920])
def test_nothing_is_wider_than_the_page(opened: Opener, width: int):
    page = opened("/usage/2026-11", width=width)
    wait_charts(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("chart", ["us-days", "us-hours"])
def test_charts_have_room(opened: Opener, chart: str):
    page = opened("/usage/2026-11")
    wait_charts(page)
    height = page.evaluate(
        f"document.querySelector('#{chart} .nsewdrag').getBoundingClientRect().height"
    )
    assert height > 200


def test_jobs_come_by_themselves_by_the_sites_clock(opened: Opener):
    page = opened("/usage/2026-11")
    expect(page.locator("#us-jobs tbody td").last).to_have_text("01 Nov 00:00")


def test_a_month_is_frozen_by_name_and_asked_for_twice(opened: Opener):
    page = opened("/usage/2026-05")
    card = page.locator(".us-sign")
    card.get_by_role("button").click()
    expect(page.locator("#us-sign-said")).to_contain_text("Write your name")
    card.get_by_placeholder("Your name").fill("Ann Lee")
    card.get_by_placeholder("Note").fill("board of June")
    card.get_by_role("button", name="Freeze the month").click()
    expect(page.locator(".us-standing")).to_have_text("Final")
    card.get_by_role("button", name="Yes, freeze May 2026 for good").click()
    expect(page.locator(".us-standing")).to_have_text("Frozen")
    said = page.locator(".us-note").first
    expect(said).to_contain_text("03 Oct 2026 10:05 by operator (Ann Lee), “board of June”")
    expect(page.get_by_text("nothing has been learnt since")).to_be_visible()
    expect(page.locator(".us-sign")).to_have_count(0)


def test_what_keeps_a_month_from_being_frozen_is_shown(opened: Opener):
    page = opened("/usage/2026-08", refused=409)
    page.get_by_placeholder("Your name").fill("Ann")
    page.get_by_role("button", name="Freeze the month").click()
    page.get_by_role("button", name="Yes, freeze August 2026 for good").click()
    expect(page.locator("#us-sign-said")).to_have_text(
        "2026-08 cannot be frozen. A decision is on its way."
    )
    expect(page.locator(".us-standing")).to_have_text("Final")


def test_adjustments_stand_beside_what_was_frozen(opened: Opener):
    page = opened("/usage/2026-09")
    rows = page.locator(".us-adjustments tbody tr")
    expect(rows).to_have_count(2)
    cells = rows.first.locator("th, td").all_text_contents()
    assert cells == [
        "tenant-2",
        "H800-SXM",
        "allocations",
        "−1,536.0",
        "−1,401.5",
        "−512.2",
        "−640.0",
    ]
    expect(rows.nth(1)).to_contain_text("+1,536.0")
    link = page.get_by_role("link", name="Adjustments as CSV")
    path = "/api/v1/adjustments?month=2026-09&each=true&format=csv"
    expect(link).to_have_attribute("href", path)


def test_a_month_that_goes_on_cannot_be_frozen(opened: Opener):
    page = opened("/usage/2026-11")
    expect(page.locator(".us-standing")).to_have_text("Provisional")
    expect(page.locator(".us-sign")).to_have_count(0)
