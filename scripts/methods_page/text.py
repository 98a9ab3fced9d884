"""Numbers and tables as the page writes them."""

from collections.abc import Sequence

__all__ = ["markdown", "number"]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines
    )


def number(value: float | None) -> str:
    """With two digits; a dash for what was not measured."""
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:.0f}"
