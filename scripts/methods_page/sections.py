"""The tables of the page after the answers."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import get_args

from methods_page.method import BUDGETS, FEATURES, Method, read_table
from methods_page.text import markdown, number
from vidcomp.compress.base import Kind
from vidcomp.pipelines.listing import describe

__all__ = ["SOURCES", "clock", "corpus", "figures", "selectors", "sources", "table"]

SOURCES = {
    "UniComp": "tables of its repository, 32 frames; the share is of tokens that enter the model",
    "SimpleCluster": "tables of its paper; the share is of tokens that enter the model",
    "VidCom2": "its project page; the share is of tokens that enter the model",
    "V-CAST": "its abstract and first figure; the share is of tokens that enter the model",
    "FlashVID": "its paper; the share is a mean over the model's layers: for 10 %, 12.5 % enter, "
    "and most of them are dropped inside",
    "USTC": "its paper, from summaries that agree; the share enters, and its inner stage, where it "
    "is on, leaves half of it",
}
"""What the names of sources stand for."""
_GROWTH = {"linear": "N", "parts": "N, by parts", "quadratic": "N²"}


def table(found: Sequence[Method]) -> str:
    """What methods need and leave, by kind, best first."""
    kinds = get_args(Kind)
    header = ["method", "kind", "needs", "counts", "online", "time grows", "exponent", "cost"]
    header += [f"distortion {BUDGETS[0]}", *BUDGETS[1:], "time"]
    rows = [
        [
            f"`{m.name}`",
            m.kind,
            ", ".join(m.about.needs) or "places only",
            "all" if m.exact else "some",
            "yes" if m.streaming else "",
            _GROWTH[m.about.scaling],
            number(m.exponent),
            m.about.cost,
            *(_both(m, budget) for budget in BUDGETS),
            "-" if m.time is None else f"{number(m.time)} %",
        ]
        for m in sorted(found, key=lambda m: (kinds.index(m.kind), m.rank_at("10%")))
    ]
    return markdown(header, rows)


def _both(method: Method, budget: str) -> str:
    values = [method.distortion.get((kind, budget)) for kind in FEATURES]
    return "-" if values == [None] * len(values) else " / ".join(map(number, values))


def figures(found: Sequence[Method]) -> str:
    """Published scores, best first, one row a model, budget and source."""
    rows: dict[tuple[str, float, str], list[tuple[float, str]]] = defaultdict(list)
    for method in found:
        for one in method.about.published:
            source, _, note = one.source.partition(": ")
            text = f"`{method.name}` {one.score:g}" + (f" ({note})" if note else "")
            rows[one.model, one.share, source].append((-one.score, text))
    return markdown(
        ["model", "tokens", "source", "percent of the score with all tokens"],
        [
            [model, f"{share:g} %", source, ", ".join(text for _, text in sorted(scores))]
            for (model, share, source), scores in sorted(
                rows.items(), key=lambda row: (row[0][0], -row[0][1], row[0][2])
            )
        ],
    )


def sources(found: Sequence[Method]) -> str:
    """What each method does, and whose it is."""
    rows = [
        [f"`{m.name}`", f"{m.summary}.", _linked(m.about.paper) or "-", m.about.accuracy or "-"]
        for m in sorted(found, key=lambda m: m.name)
    ]
    return markdown(["method", "what it does", "paper", "published otherwise"], rows)


def selectors() -> str:
    """What drops patches before an encoder sees them."""
    return "\n".join(f"* `{one['name']}`: {one['summary']}." for one in describe("selectors"))


def _linked(paper: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def corpus() -> str:
    """What the distortion was measured on."""
    details = read_table("compress_quality_distortion").get("details", [])
    clips = max((one["clips"] for one in details), default=0)
    kinds = "features of a random ViT / DCT of pixels"
    return f"mean over {clips} clips, {kinds}" if clips else "not measured yet"


def clock() -> str:
    """What the time is measured against."""
    title = "32 x 27 x 27 tokens of 1152 features to 10 %, percent of what SigLIP-so400m takes"
    return f"{title} for the frames" if read_table("compress_time")["rows"] else "not measured yet"
