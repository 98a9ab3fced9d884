"""All that the page says of one compressor, from the registry and from what was measured."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

from vidcomp.compress.base import About
from vidcomp.pipelines.listing import describe
from vidcomp.registry import COMPRESSORS

__all__ = ["BUDGETS", "FEATURES", "Method", "methods", "read_table"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
BUDGETS = ("2%", "10%", "25%")
FEATURES = ("vit", "dct")
"""Kinds of features that the distortion is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One compressor."""

    name: str
    kind: str
    summary: str
    about: About
    streaming: bool
    exact: bool
    distortion: dict[tuple[str, str], float]
    """By kind of features and budget."""
    time: float | None
    """Percent of the encoder's."""
    exponent: float | None
    """Of time, as the video grows."""

    def loss(self, budget: str) -> float:
        """Geometric mean of the distortion over the kinds of features; inf if not measured."""
        found = [self.distortion.get((kind, budget)) for kind in FEATURES]
        measured = [value for value in found if value is not None]
        return prod(measured) ** (1 / len(measured)) if measured else inf

    def rank_at(self, budget: str) -> tuple[float, str]:
        """Better methods first; those that were not measured last."""
        return self.loss(budget), self.name

    @property
    def grid(self) -> bool:
        """Whether its settings are the sizes of a grid."""
        return {"t", "h", "w"} <= set(COMPRESSORS[self.name].model_fields)

    @property
    def by_features(self) -> bool:
        """Whether an encoder's tokens are all that it needs."""
        return not set(self.about.needs) & {"saliency", "query", "keys"}


def methods() -> list[Method]:
    """Every registered compressor, least distortion at 10 % first."""
    summaries = {entry["name"]: entry["summary"] for entry in describe("compressors")}
    loss, seconds = _column("compress_quality_distortion"), _column("compress_time")
    growth = _column("compress_scale")
    found = []
    for name in COMPRESSORS.names():
        cls = COMPRESSORS[name]
        measured = {(f, b): loss(name, f"{f} {b}") for f in FEATURES for b in BUDGETS}
        found.append(
            Method(
                name=name,
                kind=cls.kind,
                summary=summaries[name],
                about=cls.about,
                streaming=cls.streaming,
                exact=COMPRESSORS.make(name).exact,
                distortion={at: value for at, value in measured.items() if value is not None},
                time=seconds(name, "% of the encoder"),
                exponent=growth(name, "exponent"),
            )
        )
    return sorted(found, key=lambda method: method.rank_at("10%"))


def read_table(name: str) -> dict[str, Any]:
    """A table of docs/benchmarks; one without rows if it was never measured."""
    path = DOCS / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"header": [], "rows": []}


def _column(name: str) -> Callable[[str, str], float | None]:
    """A look-up in a table of docs/benchmarks; ``None`` for what was not measured."""
    table = read_table(name)
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}

    def value(method: str, column: str) -> float | None:
        found = rows.get(method, {}).get(column)
        return float(found) if isinstance(found, int | float) else None

    return value
