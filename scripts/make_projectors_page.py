"""Writes the table of docs/projectors.md from what every projector says of itself and counts.

    python scripts/make_projectors_page.py [--check]

``--check`` writes nothing and ends with 1 if the table is not current.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from methods_page.text import markdown, number

from vidcomp.errors import VidcompError
from vidcomp.projectors.base import Projector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, QueryFeatures, QueryIds, VideoTokens

PAGE = Path(__file__).resolve().parents[1] / "docs" / "projectors.md"
GRID = Grid(4, 16, 16)
DIM_IN, DIM_OUT = 1024, 4096
START, END = "<!-- projectors -->\n", "<!-- end projectors -->"
HEADER = ("name", "what it does", "tokens out", "of 1,024", "order", "input", "M weights", "GFLOP")


def page() -> str:
    """The text of docs/projectors.md with the tables of today."""
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    names = PROJECTORS.names()
    table = markdown(HEADER, [[*facts(name), _gflop(name)] for name in names])
    papers = markdown(("name", "paper", "loads the names of"), [source(name) for name in names])
    note = (
        f"Counted for {GRID.t} frames of {GRID.h} x {GRID.w} patches of {DIM_IN} features, into "
        f"{DIM_OUT}, with default settings. GFLOP: matrix products, convolutions and attention of "
        f"one call, a multiplication with addition counted as two. A dash: there is no default, or "
        f"it reads more than one such video."
    )
    return f"{before}{START}{table}\n\n{note}\n\n{papers}\n{END}{after}"


def facts(name: str) -> list[str]:
    """A row of the table without the last column: nothing is computed, no weight is drawn."""
    config = PROJECTORS[name]
    about = config.about
    asks = {None: "", QueryIds: ", and a text's ids", QueryFeatures: ", and a text"}[config.asks]
    reads = ("a dense grid" if about.reads == "grid" else "any tokens") + asks
    what = re.split(r"(?<=\.)\s", " ".join((config.__doc__ or "").split()), maxsplit=1)[0]
    order = "raster" if about.in_order else "latents'"
    count, millions = _sizes(name)
    what = what.rstrip(".").replace("``", "`")
    return [f"`{name}`", what, about.tokens, count, order, reads, millions]


def source(name: str) -> list[str]:
    """A row of the table of papers and checkpoints."""
    about = PROJECTORS[name].about
    return [f"`{name}`", about.paper or "-", about.checkpoint or "-"]


def _sizes(name: str) -> tuple[str, str]:
    """Tokens out and millions of weights of default settings."""
    try:
        with torch.device("meta"):
            projector = PROJECTORS.make(name, dim_in=DIM_IN, dim_out=DIM_OUT).module()
    except VidcompError:
        return "-", "-"
    millions = number(projector.num_parameters / 1e6)
    try:
        return f"{projector.num_tokens(GRID):,}", millions
    except VidcompError:
        return "-", millions


def _gflop(name: str) -> str:
    """Of a call with default settings."""
    try:
        projector = PROJECTORS.make(name, dim_in=DIM_IN, dim_out=DIM_OUT).build()
        return number(projector.flops(_video(), query=_query(projector)) / 1e9)
    except VidcompError:
        return "-"


def _video() -> VideoTokens:
    start = torch.arange(float(GRID.t))
    return VideoTokens.from_grid(
        torch.randn(GRID.num_patches, DIM_IN), GRID, torch.stack([start, start + 1], dim=1)
    )


def _query(projector: Projector) -> Query | None:
    if projector.asks is QueryIds:
        return QueryIds(ids=torch.arange(1, 9))
    if projector.asks is QueryFeatures:
        return QueryFeatures(
            embedding=torch.randn(8, getattr(projector.config, "dim_text", DIM_IN))
        )
    return None


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = page()
    if check and made != PAGE.read_text():
        sys.exit(f"{PAGE.name} is not current: run python scripts/make_projectors_page.py")
    if not check:
        PAGE.write_text(made)


if __name__ == "__main__":
    main()
