"""Compressors side by side: which, tried on a video, and what they come to over several.

Nothing here reads files: it takes tokens, so that benchmarks use it too.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
import yaml

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor, QueryAware
from vidcomp.errors import ConfigError, VidcompError
from vidcomp.functional.quality import Quality, quality
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = [
    "Interval",
    "Method",
    "Result",
    "Trial",
    "best_first",
    "fit_to",
    "interval",
    "parse_methods",
    "short_budget",
    "summarise",
    "timed",
    "try_method",
]

Out = TypeVar("Out")

_RESAMPLES = 2000
_LONG_S = 2.0
"""A call that takes longer is not timed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A compressor with settings, as a row of the comparison."""

    label: str
    """As a person writes it: ``tome``, ``tome:scope=frame``."""
    stage: Compressor
    note: str = ""
    """What was changed so that it could run."""


class Interval(NamedTuple):
    """A mean over clips and how far it would go with other clips."""

    mean: float
    low: float | None = None
    """2.5th percentile of bootstrapped means; ``None`` for a single clip."""
    high: float | None = None
    """97.5th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One method on one clip with one budget."""

    method: str
    budget: str
    clip: str
    patches: int
    tokens: int | None = None
    """Tokens that came out; ``None`` if the method cannot run."""
    seconds: float | None = None
    """Median time of a call."""
    quality: Quality | None = None
    reason: str = ""
    """Why it cannot run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One method with one budget over all clips on which it ran."""

    method: str
    budget: str
    clips: int
    tokens: float
    """Mean count."""
    retention: float
    """Mean share of the patches."""
    seconds: float
    """Mean over clips of the median time of a call."""
    quality: dict[str, Interval]
    """By the names of ``Quality``."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        measured = {name: value._asdict() for name, value in self.quality.items()}
        return asdict(self) | {"quality": measured}


def parse_methods(texts: Iterable[str]) -> list[Method]:
    """Methods from words like ``all``, ``evs,tome`` and ``tome:scope=frame:rounds=2``.

    Args:
        texts: comma-separated names, each with settings (YAML values) after colons; ``all`` is
            every registered compressor.

    Returns:
        Each once, in the order given.

    Raises:
        ConfigError: an unknown name or setting, or no method at all.
    """
    found: dict[str, Method] = {}
    for word in (word.strip() for text in texts for word in text.split(",")):
        for label in COMPRESSORS.names() if word == "all" else [word] * bool(word):
            found.setdefault(label, Method(label=label, stage=_stage(label)))
    if not found:
        raise ConfigError("a comparison needs a method, got none: pass all, or names like evs,tome")
    return list(found.values())


def fit_to(method: Method, video: VideoTokens) -> Method:
    """The method as it can run on that video.

    A method that ranks by the encoder's attention ranks by the norm of tokens where the encoder
    gave none, and its note says so; a setting that the user chose stays.
    """
    stage: Any = method.stage
    if (
        "saliency" in video.extras
        or getattr(stage, "importance", "") != "saliency"
        or "importance" in stage.model_fields_set
    ):
        return method
    settings = {name: getattr(stage, name) for name in stage.model_fields_set}
    return Method(
        label=method.label,
        stage=COMPRESSORS.make(stage.name, **settings, importance="norm"),
        note="importance=norm",
    )


def try_method(
    method: Method,
    video: VideoTokens,
    budget: Budget,
    *,
    clip: str = "",
    runs: int = 3,
    num_frames: int | None = None,
    num_seconds: float | None = None,
) -> Trial:
    """Run a method on a video, time it, and judge what comes out.

    Args:
        method: made to fit by ``fit_to``.
        video: all tokens of the clip.
        budget: what may remain.
        clip: its name.
        runs: calls of which the median time counts; one of more than 2 s is not repeated.
        num_frames: sampled frames; by default the grid's.
        num_seconds: length of the sampled range; by default that of the spans.

    Returns:
        A trial with a reason and no numbers if the method cannot run on this video.
    """
    blank = Trial(method=method.label, budget=short_budget(budget), clip=clip, patches=len(video))
    count = budget.resolve(
        len(video),
        video.grid.t if num_frames is None else num_frames,
        video.num_seconds if num_seconds is None else num_seconds,
    )
    if isinstance(method.stage, QueryAware) and method.stage.lacks_query:
        return replace(blank, reason="it chooses tokens by a question, and there is none")
    try:
        kept, seconds = timed(lambda: method.stage(video, count), video.tokens.device, runs)
    except VidcompError as error:
        return replace(blank, reason=str(error))
    except (MemoryError, torch.OutOfMemoryError):
        return replace(blank, reason="there is not enough memory for it")
    return replace(blank, tokens=len(kept), seconds=seconds, quality=quality(video, kept))


def timed(call: Callable[[], Out], device: torch.device, runs: int) -> tuple[Out, float]:
    """What a call returns, and its median time in seconds; waits for the device."""
    seconds: list[float] = []
    while True:
        _wait(device)
        started = time.perf_counter()
        with torch.no_grad():
            out = call()
        _wait(device)
        seconds.append(time.perf_counter() - started)
        if len(seconds) >= runs or seconds[-1] > _LONG_S:
            return out, statistics.median(seconds)


def summarise(trials: Iterable[Trial]) -> list[Result]:
    """One result for each method and budget that ran on any clip, in the order of the trials."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.quality is not None:
            groups.setdefault((trial.method, trial.budget), []).append(trial)
    return [_result(*key, group) for key, group in groups.items()]


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean of one value a clip, with a bootstrapped 95 % interval over the clips.

    The same resamples of clips are drawn for all methods, so that they can be compared.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean)
    draw = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(values), (_RESAMPLES, len(values)), generator=draw)
    means = torch.tensor(values, dtype=torch.float64)[picked].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean, low, high)


def best_first(results: Sequence[Result], budgets: Sequence[str]) -> list[str]:
    """Methods by their mean distortion over the budgets; those that lack a budget come last."""
    by_method: dict[str, dict[str, float]] = {}
    for result in results:
        found = by_method.setdefault(result.method, {})
        found[result.budget] = result.quality["distortion"].mean

    def place(method: str) -> tuple[int, float, str]:
        found = [by_method[method][b] for b in budgets if b in by_method[method]]
        return len(budgets) - len(found), statistics.fmean(found), method

    return sorted(by_method, key=place)


def short_budget(budget: Budget) -> str:
    """``10%`` or ``196``."""
    return str(budget).removesuffix(" of the tokens").removesuffix(" tokens")


def _result(method: str, budget: str, trials: list[Trial]) -> Result:
    judged = [trial.quality for trial in trials if trial.quality is not None]
    tokens = [trial.tokens or 0 for trial in trials]
    shares = [count / trial.patches for count, trial in zip(tokens, trials, strict=True)]
    return Result(
        method=method,
        budget=budget,
        clips=len(trials),
        tokens=statistics.fmean(tokens),
        retention=statistics.fmean(shares),
        seconds=statistics.fmean(trial.seconds or 0.0 for trial in trials),
        quality={
            name: interval([getattr(one, name) for one in judged]) for name in Quality._fields
        },
    )


def _stage(label: str) -> Compressor:
    name, *words = label.split(":")
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(
                f"settings of a method look like name:key=value, got {label!r}: write e.g. "
                f"tome:scope=frame"
            )
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value in {word!r} is not YAML: quote it") from error
    stage: Compressor = COMPRESSORS.make(name, **settings)
    return stage


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
