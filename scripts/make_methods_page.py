"""Writes docs/methods.md from what every compressor says of itself and from what was measured.

    python scripts/make_methods_page.py [--check]

Also the names of compressors in README and changelog, and of the modules that they are made of in
docs/compressors.md.  ``--check`` writes nothing and ends with 1 if one of them is not current.
"""

import argparse
import ast
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vidcomp.compress.base import About, Kind
from vidcomp.pipelines.listing import describe
from vidcomp.registry import COMPRESSORS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, CONCEPTS = DOCS / "methods.md", DOCS / "compressors.md"
README, CHANGELOG = DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md"
BUDGETS = ("2%", "10%", "25%")
FEW = 5
"""Methods that an answer names."""

LEADERS = {
    "any": ("unicomp", "flashvid", "holitom"),
    "few": ("ustc", "simple_cluster"),
    "grid": ("v_cast", "vidcom2"),
    "stream": ("dtd", "evs"),
}
"""Best in published answers to questions, as far as they are registered."""

HEAD = """\
# Methods: which compressor?

Made by `python scripts/make_methods_page.py` from the registry and from
[measurements](benchmarks.md) without a model; do not edit. What a compressor is and promises:
[compressors](compressors.md).

## Choose in two minutes

{answers}

Least distortion is measured by us, on features; best answers are what papers report of language
models (below), each for its own models and budgets. Try your candidates on your own clips:
`vidcomp compare clips/ --budgets 5% 10% --methods {some}`.

## What they need and what they leave

Best first within each kind. N tokens of D features, K kept, T frames of n tokens.

* **counts**: `all` if every budget is reached to the token, else what its form allows
* **online**: `stage.stream(...)` takes a video chunk by chunk
* **distortion**: squared error of the video rebuilt from its tokens over its variance, less is
  better: {corpus}
* **time**: {clock}

{table}

## Where they come from

Published figures are relative to the same model with all tokens unless said otherwise. They stem
from tables with different ideas of what a budget counts, so compare figures of one source only.

{sources}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """All that the page says of one compressor."""

    name: str
    kind: str
    summary: str
    about: About
    streaming: bool
    exact: bool
    distortion: dict[str, float]
    """By budget."""
    time: float | None
    """Percent of the encoder's."""

    def rank_at(self, budget: str) -> tuple[float, str]:
        """Better methods first; those that were not measured last."""
        return self.distortion.get(budget, float("inf")), self.name

    @property
    def grid(self) -> bool:
        """Whether its settings are the sizes of a grid."""
        return {"t", "h", "w"} <= set(COMPRESSORS[self.name].model_fields)


def methods() -> list[Method]:
    """Every registered compressor, best first."""
    summaries = {entry["name"]: entry["summary"] for entry in describe("compressors")}
    loss, seconds = _column("compress_quality_distortion"), _column("compress_time")
    found = []
    for name in COMPRESSORS.names():
        cls = COMPRESSORS[name]
        measured = {b: loss(name, f"vit {b}") for b in BUDGETS}
        found.append(
            Method(
                name=name,
                kind=cls.kind,
                summary=summaries[name],
                about=cls.about,
                streaming=cls.streaming,
                exact=COMPRESSORS.make(name).exact,
                distortion={b: value for b, value in measured.items() if value is not None},
                time=seconds(name, "% of the encoder"),
            )
        )
    return sorted(found, key=lambda method: method.rank_at("10%"))


def page() -> str:
    """The text of docs/methods.md."""
    found = methods()
    plain = [m for m in found if not set(m.about.needs) & {"saliency", "query", "keys"}]
    return HEAD.format(
        answers=_answers(found, plain),
        some=",".join(m.name for m in [m for m in plain if m.exact][:3]),
        corpus=_corpus(),
        clock=_clock(),
        table=_table(found),
        sources=_sources(found),
    )


def readme() -> str:
    """The README with the names of all compressors."""
    kinds = {"prune": "pruning", "merge": "merging", "resample": "resampling", "mixed": "mixed"}
    groups = {
        kind: " ".join(
            f"`{m.name}`" for m in sorted(methods(), key=lambda m: m.name) if m.kind == kind
        )
        for kind in kinds
    }
    named = "; ".join(f"{kinds[kind]} {names}" for kind, names in groups.items() if names)
    row = f"| Compressors | {named}; pipelines of any of them ([which?](docs/methods.md)) |"
    return re.sub(r"^\| Compressors \|.*\|$", row, README.read_text(), flags=re.MULTILINE)


def concepts() -> str:
    """docs/compressors.md with the table of the modules that methods are made of."""
    paths = sorted((DOCS.parent / "vidcomp" / "functional").glob("[!_]*.py"))
    rows = [
        [f"`{path.stem}`", (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]]
        for path in paths
    ]
    start, end = "<!-- modules -->\n", "<!-- end modules -->"
    before, _, rest = CONCEPTS.read_text().partition(start)
    table = _markdown(["`vidcomp.functional`", "for"], rows)
    return f"{before}{start}{table}\n{end}{rest.partition(end)[2]}"


def changelog() -> str:
    """The changelog with the names of all compressors where it tells of those not yet released."""
    text, opening = CHANGELOG.read_text(), "- Compressors, all with exact budgets"
    start = text.find(opening)
    if start < 0:
        return text
    stop = text.index("\n- ", start)
    sentence, _, _ = " ".join(text[start:stop].split()).partition(": ")
    names = ", ".join(f"`{name}`" for name in COMPRESSORS.names())
    words = f"{sentence}: {names}, and pipelines of them."
    return text[:start] + textwrap.fill(words, 100, subsequent_indent="  ") + text[stop:]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = {PAGE: page(), README: readme(), CONCEPTS: concepts(), CHANGELOG: changelog()}
    for path, text in made.items():
        if check and path.read_text() != text:
            sys.exit(f"{path.name} is not current: run python scripts/make_methods_page.py")
        if not check:
            path.write_text(text)


def _answers(found: list[Method], plain: list[Method]) -> str:
    """The list of decisions; what it names follows from the registry and the measurements."""
    few = sorted((m for m in plain if m.exact), key=lambda m: m.rank_at("2%"))
    quick = [m for m in plain if m.about.scaling == "linear" and m.exact]
    asked = {
        "Nothing special: features only, time linear in the length": (quick, "any"),
        "Less than 5 % of the tokens": (few, "few"),
        "Each token keeps its own (t, h, w), which models with M-RoPE (Qwen-VL) are used to": (
            [m for m in plain if m.kind == "prune"],
            "grid",
        ),
        "The video is a stream, or too long to be held": (
            [m for m in found if m.streaming],
            "stream",
        ),
        "The encoder tells what it looks at (`saliency: true` of `hf`)": (
            _needing(found, "saliency"),
            "",
        ),
        "The question is known beforehand": (_needing(found, "query"), ""),
        "A regular grid, for a convolution or 2-D positions": ([m for m in found if m.grid], ""),
        "No time at all, or a baseline": ([m for m in found if not m.about.needs], ""),
    }
    return "\n".join(
        f"* **{wish}**: {_names(given, leaders, found)}"
        for wish, (given, leaders) in asked.items()
        if given
    )


def _needing(found: Iterable[Method], what: str) -> list[Method]:
    return [m for m in found if what in m.about.needs]


def _names(given: list[Method], leaders: str, found: list[Method]) -> str:
    measured = [m for m in given if m.distortion]
    named = ", ".join(f"`{method.name}`" for method in (measured or given)[:FEW])
    more = f" (of {len(given)})" if len(given) > FEW else ""
    words = [f"least distortion {named}{more}" if measured else f"{named}{more}"]
    registered = {method.name for method in found}
    best = ", ".join(f"`{name}`" for name in LEADERS.get(leaders, ()) if name in registered)
    return "; ".join([*words, *([f"best answers {best}"] if best else [])])


def _table(found: list[Method]) -> str:
    header = ["method", "kind", "needs", "counts", "online", "time grows", "cost"]
    header += [f"distortion {BUDGETS[0]}", *BUDGETS[1:], "time"]
    kinds = get_args(Kind)
    rows = [
        [
            f"`{m.name}`",
            m.kind,
            ", ".join(m.about.needs) or "places only",
            "all" if m.exact else "some",
            "yes" if m.streaming else "",
            {"linear": "N", "parts": "N, by parts", "quadratic": "N²"}[m.about.scaling],
            m.about.cost,
            *(_number(m.distortion.get(budget)) for budget in BUDGETS),
            "-" if m.time is None else f"{_number(m.time)} %",
        ]
        for m in sorted(found, key=lambda m: (kinds.index(m.kind), m.rank_at("10%")))
    ]
    return _markdown(header, rows)


def _sources(found: list[Method]) -> str:
    rows = [
        [f"`{m.name}`", f"{m.summary}.", m.about.paper or "-", m.about.accuracy or "-"]
        for m in sorted(found, key=lambda m: m.name)
    ]
    return _markdown(["method", "what it does", "paper", "published accuracy"], rows)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines
    )


def _column(name: str) -> Callable[[str, str], float | None]:
    """A look-up in a table of docs/benchmarks; ``None`` for what was not measured."""
    table = _read(name)
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}

    def value(method: str, column: str) -> float | None:
        found = rows.get(method, {}).get(column)
        return float(found) if isinstance(found, int | float) else None

    return value


def _corpus() -> str:
    details = _read("compress_quality_distortion").get("details", [])
    clips = max((one["clips"] for one in details), default=0)
    return f"mean over {clips} clips, features of a random ViT" if clips else "not measured yet"


def _clock() -> str:
    title = (
        "32 x 27 x 27 tokens of 1152 features to 10 %, over that of SigLIP-so400m for the frames"
    )
    return title if _read("compress_time")["rows"] else "not measured yet"


def _read(name: str) -> dict[str, Any]:
    path = DOCS / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"header": [], "rows": []}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
