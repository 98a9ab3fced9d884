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
from vidcomp.projectors.base import Projector, ProjectorConfig
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
    table = markdown(HEADER, [_row(name) for name in names])
    papers = markdown(
        ("name", "paper", "loads the names of"),
        [
            [f"`{name}`", about.paper or "-", about.checkpoint or "-"]
            for name in names
            if (about := PROJECTORS[name].about)
        ],
    )
    note = (
        f"Counted for {GRID.t} frames of {GRID.h} x {GRID.w} patches of {DIM_IN} features, into "
        f"{DIM_OUT}, with default settings. GFLOP: matrix products, convolutions and attention of "
        f"one call, a multiplication with addition counted as two. A dash: it reads more than "
        f"such a video, or another grid."
    )
    return f"{before}{START}{table}\n\n{note}\n\n{papers}\n{END}{after}"


def _row(name: str) -> list[str]:
    config = PROJECTORS[name]
    about = config.about
    counted = _counted(name)
    asks = {None: "", QueryIds: ", and a text's ids", QueryFeatures: ", and a text"}[config.asks]
    reads = ("a dense grid" if about.reads == "grid" else "any tokens") + asks
    what = re.split(r"(?<=\.)\s", " ".join((config.__doc__ or "").split()), maxsplit=1)[0]
    return [
        f"`{name}`",
        what.rstrip(".").replace("``", "`"),
        about.tokens,
        counted[0],
        "raster" if about.in_order else "latents'",
        reads,
        *counted[1:],
    ]


def _counted(name: str) -> tuple[str, str, str]:
    """Tokens out, millions of weights and GFLOP of default settings; dashes where it reads more."""
    torch.manual_seed(0)
    try:
        projector = PROJECTORS.make(name, dim_in=DIM_IN, dim_out=DIM_OUT).build()
    except VidcompError:
        return "-", "-", "-"
    millions = number(projector.num_parameters / 1e6)
    try:
        count = f"{projector.num_tokens(GRID):,}"
        return count, millions, number(projector.flops(_video(), query=_query(projector)) / 1e9)
    except VidcompError:
        return "-", millions, "-"


def _video() -> VideoTokens:
    start = torch.arange(float(GRID.t))
    return VideoTokens.from_grid(
        torch.randn(GRID.num_patches, DIM_IN), GRID, torch.stack([start, start + 1], dim=1)
    )


def _query(projector: Projector) -> Query | None:
    if projector.asks is QueryIds:
        return QueryIds(ids=torch.arange(1, 9))
    if projector.asks is QueryFeatures:
        config: ProjectorConfig = projector.config
        return QueryFeatures(embedding=torch.randn(8, getattr(config, "dim_query", DIM_IN)))
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
