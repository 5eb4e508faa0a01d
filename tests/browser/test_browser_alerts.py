"""The Alerts page, an incident and its runbook in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_fleet import FakeFleet
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]


def test_what_is_open_stands_first_with_place_tenants_and_figures(opened: Opener):
    page = opened("/alerts", policy=True)
    rows = page.locator("#al-list tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("Rack A03 (Hall 1): rack cooling, 64 GPUs")
    for text in ("Hall 1 / A03", "64 GPUs", "63.3 PFLOP/s", "Meridian Language Models", "critical"):
        expect(rows.first).to_contain_text(text.replace(" PFLOP", "\u2009PFLOP"))
    expect(page.locator("#al-critical")).to_have_text("1")
    # The third one's GPU is in the second one's node, and is not counted twice.
    expect(page.locator("#al-gpus")).to_have_text("65")
    expect(page.locator("#al-pflops")).to_have_text("63.6")
    expect(page.locator("#al-untaken")).to_have_text("2")
    expect(page.locator("#al-information")).to_contain_text("Hot, and steady.")


def test_one_is_taken_on_silenced_and_heard_again(opened: Opener, fleet: FakeFleet):
    page = opened("/alerts")
    row = page.locator("#al-list tr").first
    row.get_by_role("button", name="Take on").click()
    expect(row).to_contain_text("taken on by local")
    expect(page.locator("#al-untaken")).to_have_text("1")
    row.get_by_role("button", name="Silence 1 h").click()
    expect(row).to_contain_text("silenced")
    expect(page.locator("#al-silences")).to_contain_text("incident i1 until 2026-11-24 06:50 UTC")
    page.locator("#al-silences").get_by_role("button", name="End").click()
    expect(page.locator("#al-silences li")).to_have_count(0)
    assert fleet.alerts.incidents["i1"]["silenced"] is False


def test_history_is_searched(opened: Opener):
    page = opened("/alerts")
    page.get_by_role("button", name="Resolved").click()
    expect(page.locator("#al-list tr")).to_have_count(1)
    expect(page.locator("#al-list tr").first).to_contain_text("resolved")
    page.get_by_role("button", name="All").click()
    expect(page.locator("#al-list tr")).to_have_count(4)
    page.fill("#al-search", "fewer")
    expect(page.locator("#al-list tr")).to_have_count(1)
    page.fill("#al-search", "nothing of the kind")
    expect(page.locator("#al-none")).to_have_text("Nothing is found.")


def test_an_incident_shows_evidence_and_leads_to_the_runbook(opened: Opener):
    page = opened("/alerts")
    page.locator("#al-list a").first.click()
    page.wait_for_function(
        "document.querySelectorAll('#in-chart .scatterlayer .trace').length >= 4"
    )
    names = page.evaluate(
        "document.querySelector('#in-chart .js-plotly-plot').data.map(t => t.name)"
    )
    assert names[:2] == ["Expected from power", "Temperature"]
    expect(page.locator("#in-side")).to_contain_text("Warmer6.1\u2009°C")
    expect(page.locator("#in-below")).to_contain_text("told (sent)")
    page.get_by_text("Open the runbook").click()
    expect(page.locator(".al-runbook h1")).to_have_text("rack_cooling")
    expect(page.locator(".al-runbook strong")).to_have_text("pump")


def test_words_are_written_down_and_refusals_said(opened: Opener, fleet: FakeFleet):
    page = opened("/alerts/i1")
    page.fill("#in-words", "reseated the valve")
    page.get_by_role("button", name="Comment").click()
    expect(page.locator("#in-act-said")).to_have_text("Written down.")
    expect(page.locator("#in-words")).to_have_value("")
    expect(page.locator("#in-below")).to_contain_text("reseated the valve")
    page.get_by_role("button", name="Take it on").click()
    expect(page.locator("#in-head")).to_contain_text("taken on by local")
    page.get_by_role("button", name="Silence 4 h").click()
    expect(page.locator("#in-head")).to_contain_text("silenced")
    assert fleet.alerts.comments == ["reseated the valve"]


def test_a_test_message_is_asked_for(opened: Opener, fleet: FakeFleet):
    page = opened("/alerts")
    page.click("#al-test")
    expect(page.locator("#al-test-said")).to_contain_text("Asked for.")
    assert fleet.alerts.tests == 1


def test_an_incident_that_is_not_there_says_so(opened: Opener):
    page = opened("/alerts/nil")
    expect(page.locator(".nd-trouble")).to_have_text("No incident is called 'nil'.")


@pytest.mark.parametrize("width", [390, 1_920])
def test_nothing_is_wider_than_the_page(opened: Opener, width: int):
    page = opened("/alerts", width=width)
    expect(page.locator("#al-list tr")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_live_page_leads_to_what_is_open(opened: Opener, fleet: FakeFleet):
    page = opened("/")
    expect(page.locator("#pw-nav-alerts")).to_have_attribute("data-count", "3")
    first = page.locator("#lv-attention-rows tr").first
    expect(first).to_contain_text("IncidentRack A03 (Hall 1): rack cooling")
    expect(first).to_contain_text("Meridian Language Models and 1 more")
    # Its rack's nodes are not told of one by one beside it.
    expect(page.locator("#lv-attention-rows tr", has_text="a03n")).to_have_count(0)
    first.locator("a").click()
    expect(page.locator("#in-head h1")).to_contain_text("Rack A03 (Hall 1)")
    for one in fleet.alerts.incidents.values():
        one["state"] = "resolved"
    page.get_by_role("link", name="Live").click()
    expect(page.locator("#lv-attention-rows")).to_be_visible()
    expect(page.locator("#pw-nav-alerts")).to_have_attribute("data-count", "")
