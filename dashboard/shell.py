"""The frame around every page: document, header, navigation, state pill, clocks.

The header's live parts are filled by `assets/shell.js`, which holds the one
socket of the page.
"""

from __future__ import annotations

from dash import dcc, html
from dash.development.base_component import Component

from dashboard.static import StaticFiles
from dashboard.tags import attributes

PAGES = (("Live", "/"), ("Nodes", "/nodes"), ("Usage", "/usage"), ("Alerts", "/alerts"))
"""Title and address of each entry of the navigation."""


def index_string(files: StaticFiles) -> str:
    """The document, without one inline script, so that `script-src 'self'` holds."""
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
{{%metas%}}
<meta name="color-scheme" content="dark light">
<title>{{%title%}}</title>
<link rel="icon" type="image/svg+xml" href="{files.url("mark.svg")}">
<link rel="preload" href="{files.url("inter-latin.woff2")}" as="font" type="font/woff2" crossorigin>
<script src="{files.url("theme.js")}"></script>
<link rel="stylesheet" href="{files.url("base.css")}">
<link rel="stylesheet" href="{files.url("live.css")}">
<link rel="stylesheet" href="{files.url("node.css")}">
<link rel="stylesheet" href="{files.url("alerts.css")}">
<link rel="stylesheet" href="{files.url("usage.css")}">
{{%css%}}
<script type="module" src="{files.url("shell.js")}"></script>
</head>
<body>
{{%app_entry%}}
<footer>
{{%config%}}
{{%scripts%}}
<script id="_dash-renderer" src="{files.url("boot.js")}"></script>
</footer>
</body>
</html>"""


def shell() -> Component:
    """The header and the empty place into which a page is put."""
    return html.Div(
        [
            dcc.Location(id="pw-url", refresh=False),
            html.A("Skip to content", href="#pw-page", className="pw-skip"),
            html.Header([_brand(), _navigation(), _status()], className="pw-header"),
            html.Main(id="pw-page", className="pw-page", tabIndex="-1"),
        ],
        id="pw-shell",
    )


def _brand() -> Component:
    return html.Div(
        [
            html.Span(className="pw-mark", **attributes(aria_hidden="true")),
            html.Span("Petawatch", className="pw-name"),
            html.Span(id="pw-site", className="pw-site"),
        ],
        className="pw-brand",
    )


def _navigation() -> Component:
    links = [
        dcc.Link(title, href=address, id=f"pw-nav-{title.lower()}", className="pw-nav-link")
        for title, address in PAGES
    ]
    return html.Nav(links, className="pw-nav", **attributes(aria_label="Pages"))


def _status() -> Component:
    pill = html.Div(
        [
            html.Span(className="pw-pill-shape", **attributes(aria_hidden="true")),
            html.Span("Connecting", id="pw-pill-text", **attributes(aria_hidden="true")),
            html.Span(id="pw-pill-said", className="pw-unseen", role="status"),
        ],
        id="pw-pill",
        className="pw-pill",
        **attributes(data_state="starting"),
    )
    clock = html.Div(
        [
            html.Span(id="pw-utc", className="pw-utc"),
            html.Span(id="pw-local", className="pw-local"),
        ],
        className="pw-clock",
    )
    theme = html.Button(
        html.Span(className="pw-theme-icon", **attributes(aria_hidden="true")),
        id="pw-theme",
        className="pw-theme",
        type="button",
        **attributes(aria_label="Switch between dark and light"),
    )
    origin = html.Div(id="pw-origin", className="pw-origin", hidden=True)
    return html.Div([origin, pill, clock, theme], className="pw-status")
