"""Numbers rendered into byte matrices: N lines of equal width at once, no line by itself.

A line is laid out once as a template; then each number's digits are looked
up in tables (one table entry for one, two or four digits) and copied over
the template, column by column: about 12 ns a number.  Numbers are padded
with zeros, which InfluxDB takes.  A number that is absent has its bytes set
to `FILLER`, removed at the end by one pass over the matrix (0.8 ns a byte),
which a matrix without absent numbers is spared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Rows = NDArray[np.intp] | NDArray[np.bool_] | slice
Present = NDArray[np.bool_]

FILLER = 0
"""A byte that no line holds and that marks what is to be left out."""
LARGEST = 2.0**63
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True, slots=True)
class Numbers:
    """One field of N lines: `name=` and magnitudes × 10^-`decimals`, `suffix` after them.

    `negative` is None where none is; `present` is None where all are.
    """

    name: bytes
    magnitude: NDArray[np.uint64] | NDArray[np.uint32]
    negative: Present | None
    present: Present | None
    decimals: int
    suffix: bytes

    def taken(self, rows: Rows, present: Present | None) -> Numbers:
        """The lines `rows`, with another mask of what is present."""
        negative = None if self.negative is None else self.negative[rows]
        magnitude: Any = self.magnitude[rows]
        return Numbers(self.name, magnitude, negative, present, self.decimals, self.suffix)


def floats(name: bytes, values: NDArray[np.float32], decimals: int) -> Numbers | None:
    """A float field with `decimals` digits, the nearest ones to the 32-bit value (half to even).

    NaN, infinities and what is beyond 2^63 units of the last digit are
    absent; None if all are.
    """
    with np.errstate(over="ignore"):
        scaled = np.multiply(values, 10.0**decimals, dtype=np.float64)
    np.rint(scaled, out=scaled)
    # Two passes tell the usual case, all present and none negative: NaN fails both comparisons.
    lowest, highest = scaled.min(initial=0.0), scaled.max(initial=0.0)
    mask = sign = None
    if not (lowest > -LARGEST and highest < LARGEST):
        mask = np.abs(scaled) < LARGEST
        if not mask.any():
            return None
        scaled = np.where(mask, scaled, 0.0)
        lowest, highest = scaled.min(), scaled.max()
    if lowest < 0:
        sign = scaled < 0
        np.abs(scaled, out=scaled)
        highest = scaled.max()
    narrow = highest < 2**32
    magnitude = scaled.astype(np.uint32) if narrow else scaled.astype(np.uint64)
    return Numbers(name, magnitude, sign, mask, decimals, b"")


def integers(
    name: bytes, values: NDArray[np.uint64], present: Present | None = None
) -> Numbers | None:
    """An integer field; from 2^63 the value is written as its two's complement, losing nothing.

    None if no value is present.
    """
    if present is not None:
        if not present.any():
            return None
        present = None if present.all() else present
    magnitude, sign = values, None
    if present is not None:
        magnitude = np.where(present, magnitude, np.uint64(0))
    highest = magnitude.max(initial=0)
    if highest >= 2**63:
        sign = magnitude >= np.uint64(2**63)
        magnitude = np.where(sign, ~magnitude + np.uint64(1), magnitude)
    elif highest < 2**32:
        return Numbers(name, magnitude.astype(np.uint32), None, present, 0, b"i")
    return Numbers(name, magnitude, sign, present, 0, b"i")


@lru_cache(maxsize=1)
def _thousandths() -> NDArray[np.uint32]:
    """`.000` … `.999`: the commonest fraction in one look-up instead of two."""
    return np.frombuffer(b"".join(b".%03d" % number for number in range(1_000)), np.uint32)


@lru_cache(maxsize=4)
def _table(width: int) -> NDArray[Any]:
    """Every number below 10^width as `width` digits in one word."""
    text = b"".join(b"%0*d" % (width, number) for number in range(10**width))
    return np.frombuffer(text, _WORDS[width])


def _column(matrix: Bytes, start: int, width: int) -> NDArray[Any]:
    """The columns start … start + width as one word per line."""
    lines, length = matrix.shape
    return np.ndarray((lines,), _WORDS[width], matrix, offset=start, strides=(length,))


def _put_fraction(matrix: Bytes, start: int, decimals: int, numbers: NDArray[Any]) -> None:
    if decimals == 3:
        _column(matrix, start, 4)[:] = _thousandths()[numbers.astype(np.intp, copy=False)]
    else:
        put_digits(matrix, start + 1, decimals, numbers)


def put_digits(matrix: Bytes, start: int, width: int, numbers: NDArray[Any]) -> None:
    """Writes the last `width` digits of each number to columns start … start + width."""
    while width:
        step = next(size for size in (4, 2, 1) if size <= width)
        width -= step
        low = numbers
        if width:
            numbers, whole = numbers // numbers.dtype.type(10**step), numbers
            low = whole - numbers * numbers.dtype.type(10**step)
        column = _column(matrix, start + width, step)
        column[:] = _table(step)[low.astype(np.intp, copy=False)]


def _whole_width(field: Numbers) -> int:
    """Digits of the largest whole part; one more where that saves a look-up."""
    width = len(str(int(field.magnitude.max(initial=0)) // 10**field.decimals))
    return width + (width % 4 == 3)


def _put_number(matrix: Bytes, start: int, width: int, field: Numbers) -> None:
    """Sign, whole part, point and fraction; the template holds the point."""
    if field.negative is not None:
        matrix[:, start] = np.where(field.negative, np.uint8(ord("-")), np.uint8(ord("0")))
        start += 1
    whole: NDArray[Any] = field.magnitude
    if field.decimals:
        unit = field.magnitude.dtype.type(10**field.decimals)
        whole = field.magnitude // unit
        _put_fraction(matrix, start + width, field.decimals, field.magnitude - whole * unit)
    put_digits(matrix, start, width, whole)


def _fill(matrix: Bytes, fields: Sequence[Numbers], widths: Sequence[int], start: int) -> None:
    """All fields from column `start`; absent ones become filler.

    Each field ends with the comma before its successor, so the comma of a
    line's last present field is turned to filler.
    """
    lines = len(matrix)
    last_comma = np.zeros(lines, np.intp)
    masked = any(field.present is not None for field in fields)
    for field, width in zip(fields, widths, strict=True):
        number = start + len(field.name) + 1
        end = start + _field_width(field, width)
        if not _constant(field):
            _put_number(matrix, number, width, field)
        if field.present is None:
            last_comma[:] = end - 1
        else:
            matrix[~field.present, start:end] = FILLER
            last_comma[field.present] = end - 1
        start = end
    if masked:
        matrix[np.arange(lines), last_comma] = FILLER


def _field_width(field: Numbers, whole: int) -> int:
    sign = field.negative is not None
    point = field.decimals + 1 if field.decimals else 0
    return len(field.name) + 1 + sign + whole + point + len(field.suffix) + 1


def _constant(field: Numbers) -> bool:
    """Whether all lines have the number that the template has; limits and error counts often do."""
    return field.negative is None and bool((field.magnitude == field.magnitude[0]).all())


def _template(fields: Sequence[Numbers], widths: Sequence[int], *, comma_last: bool) -> bytes:
    parts: list[bytes] = []
    for field, width in zip(fields, widths, strict=True):
        sign = b"0" * (field.negative is not None)
        digits = b"%0*d" % (width + field.decimals, int(field.magnitude[0]))
        point = b"." + digits[width:] if field.decimals else b""
        parts.append(field.name + b"=" + sign + digits[:width] + point + field.suffix)
    return b",".join(parts) + (b"," if comma_last else b"")


def _nothing(fields: Sequence[Numbers], lines: int) -> Present:
    nothing = np.ones(lines, np.bool_)
    for field in fields:
        if field.present is None:
            return np.zeros(lines, np.bool_)
        nothing &= ~field.present
    return nothing


def render(prefix: Bytes, fields: Sequence[Numbers], times_ns: NDArray[np.int64]) -> memoryview:
    """Lines of line protocol: `prefix` (N × P, its padding left of the text), fields, time.

    `fields` must not be empty; a line in which none is present is left out.
    Times are ns since 1970, from 2001 to 2286 (19 digits).
    """
    lines, start = prefix.shape
    widths = [_whole_width(field) for field in fields]
    masked = any(field.present is not None for field in fields)
    template = b" " + _template(fields, widths, comma_last=masked) + b" " + b"0" * 19 + b"\n"
    matrix = np.empty((lines, start + len(template)), np.uint8)
    matrix[:, :start] = prefix
    matrix[:, start:] = np.frombuffer(template, np.uint8)
    put_digits(matrix, matrix.shape[1] - 20, 19, times_ns)
    _fill(matrix, fields, widths, start + 1)
    if not masked:
        return matrix.ravel().data
    matrix[_nothing(fields, lines)] = FILLER
    flat = matrix.ravel()
    return flat[flat != FILLER].data
