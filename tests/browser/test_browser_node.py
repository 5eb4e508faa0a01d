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


def test_what_happened_is_said_with_what_to_do_and_whose_it_is(opened: Opener):
    page = opened("/nodes/a03n02")
    rows = page.locator(".nd-events tbody tr")
    expect(rows).to_have_count(5)
    lost = rows.nth(0)
    expect(lost).to_contain_text("24 Nov 05:58:31")
    expect(lost).to_contain_text("Critical")
    expect(lost).to_contain_text("XID 79: GPU has fallen off the bus")
    expect(lost).to_contain_text("reboot")
    expect(lost).to_contain_text("the operator")
    storm = rows.nth(2)
    expect(storm).to_contain_text("× 628")
    expect(storm).to_contain_text("the tenant's program")
    expect(storm).to_contain_text("job 48009")
    expect(rows.nth(1)).to_contain_text("0000:05:00.0")
    wait_charts(page)


def test_instances_say_what_is_allocated_and_what_is_the_gpus(opened: Opener):
    page = opened("/nodes/a03n02")
    rows = page.locator(".nd-instances tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(1)).to_contain_text("3g.40gb")
    expect(rows.nth(1)).to_contain_text("176\u2009W allocated")
    expect(rows.nth(1)).to_contain_text("64\u2009°C of the GPU")
    expect(rows.nth(3)).to_contain_text("–")
    expect(rows.nth(3)).not_to_contain_text("0\u2009W")
    wait_charts(page)


def test_a_node_without_instances_has_no_table_of_them(opened: Opener):
    page = opened("/nodes/a01n01")
    expect(page.locator(".nd-events tbody tr")).to_have_count(5)
    expect(page.locator(".nd-instances")).to_have_count(0)
    wait_charts(page)


def test_how_flop_are_found_and_what_cannot_be_measured(opened: Opener):
    page = opened("/nodes/a03n02")
    card = page.locator(".nd-measuring")
    expect(card.locator("table").first.locator("tbody tr")).to_have_count(11)
    expect(card).to_contain_text("sum of its instances")
    expect(card).to_contain_text("util_clock an estimate")
    expect(card).to_contain_text("What cannot be measured (3)")
    lacking = card.locator("table").nth(1).locator("tbody tr")
    expect(lacking).to_have_text(
        [
            "fan speedallpassively cooled",
            "kubernetesthe nodethere is no kubelet here",
            "sm activity5no permission",
        ]
    )
    expect(page.locator(".nd-agent")).to_contain_text("590.48.01")
    wait_charts(page)


def test_a_node_without_events_says_so(opened: Opener):
    page = opened("/nodes/a01n02")
    expect(page.locator(".nd-events")).to_contain_text("Nothing has happened here.")
    wait_charts(page)


def test_a_node_whose_agent_never_spoke_says_so(opened: Opener):
    page = opened("/nodes/a04n01")
    expect(page.locator(".nd-agent")).to_contain_text("No agent has said anything of itself")
    wait_charts(page)


def test_events_that_cannot_be_had_do_not_take_the_page_away(opened: Opener):
    page = opened("/nodes/a01n03")
    expect(page.locator(".nd-events")).to_contain_text("The bus does not answer now.")
    wait_charts(page)


@pytest.mark.parametrize("width", [420, 1_000, 1_920])
def test_no_width_makes_the_page_scroll_sideways(opened: Opener, width: int):
    page = opened("/nodes/a03n02")
    page.set_viewport_size({"width": width, "height": 900})
    wait_charts(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
