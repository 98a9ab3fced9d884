"""Quality of all methods on real clips."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench_compress_parts.features import asked, clip_frames, clip_tokens
from bench_compress_parts.isolated import Outcome, run_isolated
from bench_compress_parts.report import Table, publish_table
from vidcomp.budget import Budget
from vidcomp.pipelines.comparison import (
    Result,
    Trial,
    best_first,
    fit_to,
    parse_methods,
    short_budget,
    summarise,
    try_method,
)
from vidcomp.types import VideoTokens

__all__ = ["bench_quality", "judge"]

BUDGETS = tuple(Budget.parse(share) for share in ("1%", "2%", "5%", "10%", "25%"))
BASELINES = ("avg_pool:axes=space",)
"""Beside every method with its defaults: pooling frame by frame."""
_DETAIL = {
    "nearest_distortion": "L2-NQE",
    "coverage": "coverage",
    "neighbour_error": "nearest distance",
    "temporal_coverage": "frames covered",
    "temporal_entropy": "time entropy",
    "position_entropy": "place entropy",
}


def bench_quality(options: argparse.Namespace) -> None:
    """All methods on clips of ``--videos``: tables of distortion, of coverage, and of the rest."""
    if options.videos is None:
        raise SystemExit("bench_compress: quality needs --videos DIR, a folder of clips")
    clips = clip_frames(options.videos, options.clips, options.frames or 16)
    if not clips:
        raise SystemExit(f"bench_compress: no such clip of {options.videos} has 16 frames")
    with tempfile.TemporaryDirectory() as work:
        tokens = clip_tokens(clips, Path(work))
        path = Path(work) / "tokens.pt"
        torch.save(tokens, path)
        labels = [method.label for method in parse_methods(options.methods)]
        if options.methods == ["all"]:
            labels += BASELINES
        outcomes = run_isolated(
            judge,
            labels,
            (str(path), options.device),
            timeout_s=options.timeout or 150,
            workers=2 if options.device == "cpu" else 1,
            threads=1 if options.device == "cpu" else None,
        )
    publish_quality(outcomes, list(clips), options)


def judge(label: str, path: str, device: str) -> Iterator[Trial]:
    """Trials of one method on all clips; the encoder stands before the clip's name."""
    tokens: dict[tuple[str, str], VideoTokens] = torch.load(path, weights_only=False)
    (method,) = parse_methods([label])
    for (name, clip), video in tokens.items():
        video = video.to(device)
        fitting = fit_to(method, video)
        fitting = replace(fitting, stage=asked(fitting.stage, video))
        for budget in BUDGETS:
            yield try_method(fitting, video, budget, clip=f"{name}/{clip}", runs=1)


def publish_quality(
    outcomes: Sequence[Outcome], clips: list[str], options: argparse.Namespace
) -> None:
    """Three tables of the trials that came, one JSON with the intervals."""
    trials: list[Trial] = [trial for outcome in outcomes for trial in outcome.values]
    budgets = [short_budget(budget) for budget in BUDGETS]
    by_encoder = {
        name: {
            (r.method, r.budget): r
            for r in summarise(t for t in trials if t.clip.startswith(f"{name}/"))
            if r.clips == len(clips)
        }
        for name in ("dct", "vit")
    }
    order = best_first([*by_encoder["vit"].values()], budgets)
    order += [o.label for o in outcomes if o.label not in order]
    notes = _notes(outcomes, trials, clips)
    for value in ("distortion", "coverage"):
        rows = [
            [
                method,
                *(
                    _mean(by_encoder[e].get((method, b)), value)
                    for e in by_encoder
                    for b in budgets
                ),
            ]
            for method in order
        ]
        header = ("method", *(f"{e} {b}" for e in by_encoder for b in budgets))
        title = f"Compressors: {_TITLES[value]}"
        best = _best(by_encoder, budgets) if value == "distortion" else ""
        publish_table(
            options,
            Table(f"quality_{value}", title, header, rows, notes + best, _details(by_encoder)),
        )
    rows = [
        [method, *(_mean(by_encoder["vit"].get((method, "10%")), value) for value in _DETAIL)]
        for method in order
    ]
    title = "Compressors: what else is measured, random ViT, 10 %"
    publish_table(
        options, Table("quality_detail", title, ("method", *_DETAIL.values()), rows, notes)
    )


_TITLES = {
    "distortion": "relative distortion, less is better",
    "coverage": "share of patches covered at cosine 0.9, more is better",
}


def _mean(result: Result | None, value: str) -> float | None:
    return None if result is None else result.quality[value].mean


def _details(by_encoder: dict[str, dict[tuple[str, str], Result]]) -> list[dict[str, object]]:
    return [
        {"encoder": name, **result.to_json()}
        for name, results in by_encoder.items()
        for result in results.values()
    ]


def _best(by_encoder: dict[str, dict[tuple[str, str], Result]], budgets: list[str]) -> str:
    """The least distortion at each budget, and pooling frame by frame against ours."""
    words = []
    for name, results in by_encoder.items():
        least = []
        for budget in budgets:
            found = [r for (_, b), r in results.items() if b == budget]
            if found:
                best = min(found, key=lambda r: r.quality["distortion"].mean)
                least.append(f"{best.method} at {budget}")
        words.append(f"Least with {name}: {', '.join(least)}.")
        frames, ours = results.get((BASELINES[0], "25%")), results.get(("partition", "25%"))
        if frames is not None and ours is not None:
            factor = frames.quality["distortion"].mean / ours.quality["distortion"].mean
            words.append(
                f"Pooling frame by frame leaves {factor:.3g} times the distortion of partition at "
                f"25 %."
            )
    return " " + " ".join(words)


def _notes(outcomes: Sequence[Outcome], trials: Sequence[Trial], clips: list[str]) -> str:
    first = next(t for t in trials if t.clip.startswith("dct/"))
    intro = (
        f"Means over {len(clips)} clips ({', '.join(clips)}) of 16 x 16 patches, {first.patches} "
        f"tokens each; 95 % intervals over clips are in the JSON. dct: 48 frequencies a patch; "
        f"vit: a SigLIP of 6 layers and 384 features with random weights, mean-centred. Methods "
        f"have their defaults; those that rank by attention rank by norm, as neither encoder gives "
        f"any; those that want a query are asked for the mean token."
    )
    words = [intro]
    missing: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.reason:
            missing.setdefault(trial.method, []).append(trial)
    for method, failed in missing.items():
        where = ", ".join(dict.fromkeys(trial.budget for trial in failed))
        words.append(f"{method} at {where}: {failed[0].reason}.")
    words += [f"{o.label} stopped: {o.reason}." for o in outcomes if o.reason]
    return " ".join(words)
