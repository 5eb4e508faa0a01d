"""The frame of a card and of a table, as the Node page has them."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component


def card(name: str, title: str, note: str, body: Component) -> Component:
    """A titled card of the class `nd-<name>`."""
    head = [html.H2(title, className="pw-title"), html.Span(note, className="pw-note")]
    return html.Section(
        [html.Div(head, className="pw-card-head"), body], className=f"pw-card nd-card nd-{name}"
    )


def table(
    columns: Sequence[str], rows: Sequence[Component], right: Sequence[str] = ()
) -> Component:
    """A table that scrolls sideways where it must; the columns named in `right` hold numbers."""
    head = [
        html.Th(title, scope="col", className="pw-right" if title in right else "")
        for title in columns
    ]
    whole = html.Table([html.Thead(html.Tr(head)), html.Tbody(list(rows))], className="pw-table")
    return html.Div(whole, className="pw-table-box")
