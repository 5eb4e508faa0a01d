"""The Node page in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
Opener = Callable[..., Page]


def wait_charts(page: Page) -> None:
    """Returns when Plotly has drawn every panel."""
    page.wait_for_function(
        "document.querySelectorAll('#nd-charts .scatterlayer .trace').length === 56"
    )


def test_every_gpu_has_a_line_on_every_panel_and_a_row_of_values(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    expect(page.locator("#nd-values tbody tr")).to_have_count(8)
    shown, newest = page.evaluate(
        "[document.querySelector('#nd-values tr[data-gpu=\"2\"] [data-panel=power]').textContent,"
        " document.querySelector('#nd-charts .js-plotly-plot').data.find("
        "   t => t.meta.gpu === 2 && t.meta.panel === 'power').y.at(-1)]"
    )
    assert shown == f"{newest:,.0f}"


def test_the_cursor_reads_every_panel_at_one_moment(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    box = page.locator("#nd-charts .nsewdrag").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    expect(page.locator("#nd-moment")).to_contain_text("UTC")
    page.mouse.move(2, 2)
    expect(page.locator("#nd-moment")).to_have_text("latest")


def test_one_gpu_can_be_seen_alone(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    page.click(".nd-gpu[data-gpu='5']")
    page.wait_for_function(
        "document.querySelector('#nd-charts .js-plotly-plot').data.every("
        "t => t.opacity === (t.meta.gpu === 5 ? 1 : 0.12))"
    )


def test_a_longer_range_comes_by_minute(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    page.click("#nd-range-60")
    expect(page.locator("#nd-status")).to_contain_text("by minute")


def test_a_zoom_asks_for_its_own_window_and_a_double_click_goes_back(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    whole = page.locator("#nd-status").text_content()
    box = page.locator("#nd-charts .nsewdrag").first.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 100, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, middle, steps=4)
    page.mouse.up()
    expect(page.locator("#nd-status")).not_to_have_text(str(whole))
    page.mouse.dblclick(box["x"] + 150, middle)
    expect(page.locator("#nd-status")).to_have_text(str(whole))


def test_a_range_without_samples_says_so(opened: Opener):
    page = opened("/nodes/b29n04")
    expect(page.locator("#nd-said")).to_have_text(
        "There are no samples of this node in this range."
    )


def test_a_node_that_is_not_there_is_said_in_words(opened: Opener):
    page = opened("/nodes/nowhere")
    expect(page.locator(".nd-trouble")).to_have_text("There is no node 'nowhere'.")


def test_the_list_is_filtered_as_one_types_and_leads_to_a_node(opened: Opener):
    page = opened("/nodes")
    expect(page.locator("#nd-list tr")).to_have_count(244)
    page.fill("#nd-filter", "a800 b07")
    expect(page.locator("#nd-list tr")).to_have_count(4)
    page.click("#nd-list a >> nth=1")
    expect(page.locator("h1")).to_have_text("b07n02")


def test_the_picker_leads_to_another_node(opened: Opener):
    page = opened("/nodes/a03n02")
    wait_charts(page)
    expect(page.locator("#nd-names option")).to_have_count(244)
    page.get_by_label("Go to another node").fill("b02n03")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("b02n03")
