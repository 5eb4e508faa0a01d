"""Attributes that Dash's typed components have no parameter for."""

from __future__ import annotations

from typing import Any


def attributes(**names: str) -> dict[str, Any]:
    """`aria_label="x"` → {"aria-label": "x"}; Dash passes `aria-` and `data-` through."""
    return {name.replace("_", "-"): value for name, value in names.items()}
