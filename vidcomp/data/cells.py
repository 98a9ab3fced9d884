"""Cells of annotation tables as texts, lists, options and seconds."""

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vidcomp.errors import ConfigError

__all__ = ["Cells", "first_text", "is_there", "listed", "option_cells", "range_of", "text", "texts"]

Cells = Mapping[str, Any]
"""A row by name of column."""


def text(cells: Cells, *names: str) -> str:
    """The first cell of these names that holds something, as text.

    Raises:
        ConfigError: none does.
    """
    found = first_text(cells, *names)
    if not found:
        raise ConfigError(
            f"there is no {' or '.join(map(repr, names))}, only "
            f"{', '.join(map(repr, cells)) or 'nothing'}: give it one, or choose another format"
        )
    return found


def first_text(cells: Cells, *names: str) -> str:
    """The same, or nothing."""
    for name in names:
        value = cells.get(name)
        if is_there(value) and not isinstance(value, list | tuple | dict):
            return _plain(value)
    return ""


def is_there(value: object) -> bool:
    """Whether a cell holds something: not nothing, not an empty text, not a number that is none."""
    return value is not None and value != "" and value == value  # NaN differs from itself


def texts(value: object) -> tuple[str, ...]:
    """A cell with one text or a list of them."""
    return tuple(_plain(one) for one in listed(value) if is_there(one))


def listed(value: object) -> Sequence[Any]:
    """A cell as a list: csv and tsv files hold lists as their text in JSON or Python."""
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        return _parsed(value)
    if isinstance(value, list | tuple):
        return value
    return [value] if is_there(value) else []


def option_cells(cells: Cells, lists: Sequence[str], numbered: Sequence[str]) -> tuple[str, ...]:
    """Options in one list, or in a column each.

    Args:
        cells: the row.
        lists: names of a column with all of them.
        numbered: beginnings of names of columns with one of them each: ``option`` for ``option0``
            to ``option4``.  ``N/A`` ends them.
    """
    for name in lists:
        if found := texts(cells.get(name)):
            return found
    for start in numbered:
        if found := tuple(_numbered(cells, start)):
            return found
    return ()


def _numbered(cells: Cells, start: str) -> Iterator[str]:
    for number in range(26):
        value = cells.get(f"{start}{number}")
        if not is_there(value) or _plain(value) == "N/A":
            return
        yield _plain(value)


def range_of(cells: Cells, start: str, end: str) -> tuple[float | None, float | None]:
    """The two seconds, each if it is there.

    Raises:
        ConfigError: no numbers, or an end that is not after the start.
    """
    first, last = _seconds(cells, start), _seconds(cells, end)
    if last is not None and last <= (first or 0.0):
        raise ConfigError(
            f"the part from {start!r} to {end!r} is empty, got {first} to {last} s: correct it"
        )
    return first, last


def _seconds(cells: Cells, name: str) -> float | None:
    value = cells.get(name)
    if not is_there(value):
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number says so
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{name!r} is a time in seconds, got {value!r}: correct it")
    return seconds


def _plain(value: object) -> str:
    """Text of a value; whole numbers that a table keeps as floats lose their point."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _parsed(value: str) -> Sequence[Any]:
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list | tuple):
            return found
    return [value]
