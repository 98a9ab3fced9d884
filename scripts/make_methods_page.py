"""Writes docs/methods.md from what every compressor says of itself and from what was measured.

    python scripts/make_methods_page.py [--check]

Also the names of compressors in README and changelog, and of the modules that they are made of in
docs/compressors.md.  ``--check`` writes nothing and ends with 1 if one of them is not current.
"""

import argparse
import ast
import re
import sys
import textwrap

from methods_page.answers import answers, default_name
from methods_page.method import DOCS, methods
from methods_page.sections import SOURCES, clock, corpus, figures, selectors, sources, table
from methods_page.text import markdown

from vidcomp.registry import COMPRESSORS

PAGE, CONCEPTS = DOCS / "methods.md", DOCS / "compressors.md"
README, CHANGELOG = DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md"

HEAD = """\
# Methods: which compressor?

Made by `python scripts/make_methods_page.py` from the registry and from
[measurements](benchmarks.md) without a model; do not edit. What a compressor is and promises:
[compressors](compressors.md).

## Choose in two minutes

In doubt take `{default}`, with which the recipes end:
`vc.compressor("{default}")(tokens, budget=196)`. Else find in the first column what you have,
or want, and read the column of your budget; the best comes first:

{answers}

* **Least distortion** is what we measured on features, without a language model. How well one
  answers is another matter: see **published answers**, percent of the score with all tokens, each
  measured by others with their own models and ways to count ([below](#published-answers)).
* Try your candidates on your own clips: `vidcomp compare clips/ --budgets 5% 10% --methods {some}`.
* Less work for the encoder itself, and not only for the language model: drop patches
  [before the encoder](#before-the-encoder). Several methods one after the other:
  [pipelines](compressors.md#several-stages). Exactly 196 tokens or 10 %, and what follows from a
  context length: `vc.Budget`.

## What they need and what they leave

Best first within each kind. N tokens of D features, K kept, T frames of n tokens.

* **counts**: `all` if every budget is reached to the token, else what its form allows
* **online**: `stage.stream(...)` takes a video chunk by chunk
* **time grows**: as the algorithm says; **exponent**: of the measured time in the length of the
  video, where 1 is linear; less than 1 where the budget, which stayed the same, costs more than
  the tokens that come in
* **distortion**: squared error of the video rebuilt from its tokens over its variance, less is
  better: {corpus}.
  Methods are ranked by the geometric mean of both
* **time**: {clock}

{table}

`uniform` and `stride` depend on how their steps fall on the grid: more tokens may be worse.

## Before the encoder

Frame selectors ([sampling](sampling.md)) tell an encoder which patches to leave out, so that
nothing is computed for them:

{selectors}

## Published answers

Differences of a point or less are within the noise of such measurements, most of all at 15 % and
more. Compare figures of one row only: sources differ in benchmarks and in what a budget counts.

{figures}

{legend}

## Where they come from

{sources}
"""


def page() -> str:
    """The text of docs/methods.md."""
    found = methods()
    plain = [m.name for m in found if m.by_features and m.exact]
    return HEAD.format(
        default=default_name(),
        answers=answers(found),
        some=",".join(plain[:3]),
        corpus=corpus(),
        clock=clock(),
        table=table(found),
        selectors=selectors(),
        figures=figures(found),
        legend="\n".join(f"* {name}: {text}" for name, text in SOURCES.items()),
        sources=sources(found),
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
    table = markdown(["`vidcomp.functional`", "for"], rows)
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


if __name__ == "__main__":
    main()
