"""Numbers as people read them; what is absent is a dash, never a nought."""

from __future__ import annotations

THIN = "\u2009"
NONE = "–"


def number(value: float | None, decimals: int = 0) -> str:
    """Digits in groups of three, with a true minus."""
    if value is None:
        return NONE
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) != 0 else text.removeprefix("-")


def with_unit(value: float | None, unit: str, decimals: int = 0) -> str:
    """A number, a thin space and its unit."""
    return NONE if value is None else f"{number(value, decimals)}{THIN}{unit}"


def percent(part: float | None, whole: float | None) -> str:
    """How much of the whole, without decimals."""
    return NONE if part is None or not whole else with_unit(100 * part / whole, "%")


def bytes_text(value: float) -> str:
    """GiB, as memory sizes are given."""
    return with_unit(value / 2**30, "GiB", 1)


def since(seconds: float | None) -> str:
    """`12 s ago`, `3 min ago`, `5 h ago`, `2 days ago`."""
    if seconds is None:
        return NONE
    for least, size, unit in ((172_800, 86_400, "days"), (7_200, 3_600, "h"), (120, 60, "min")):
        if seconds >= least:
            return f"{number(seconds / size)} {unit} ago"
    return f"{number(seconds)} s ago"


def count(many: int, noun: str) -> str:
    """`1 GPU`, `8 GPUs`."""
    return f"{number(many)} {noun}{'' if many == 1 else 's'}"
