"""Quality and time of compressors on videos: the work behind ``vidcomp compare``."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vidcomp.api import Gathered, Prepared, encode_stream, prepare
from vidcomp.budget import Budget
from vidcomp.config import Recipe
from vidcomp.errors import BudgetError, DecodeError
from vidcomp.sample.decode import stream_frames
from vidcomp.types import VideoTokens

from .comparison import (
    Method,
    Result,
    Trial,
    best_first,
    fit_to,
    short_budget,
    summarise,
    try_method,
)
from .inputs import Item

__all__ = ["Clip", "Comparison", "compare"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video that was compared on."""

    key: str
    patches: int
    frames: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Methods by budgets over clips."""

    recipe: str
    encoder: str
    device: str
    budgets: list[str]
    clips: list[Clip] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """By method: what was changed so that it could run."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Videos that could not be read: key and error."""

    @property
    def results(self) -> list[Result]:
        """Best method first, each with its budgets in the order asked for."""
        found = {(r.method, r.budget): r for r in summarise(self.trials)}
        order = best_first(list(found.values()), self.budgets)
        return [found[m, b] for m in order for b in self.budgets if (m, b) in found]

    @property
    def exit_code(self) -> int:
        """0 all there, 3 some videos could not be read."""
        return 3 if self.failures else 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: results over clips, what could not run, and every trial."""
        return {
            "recipe": self.recipe,
            "encoder": self.encoder,
            "device": self.device,
            "budgets": self.budgets,
            "clips": [asdict(clip) for clip in self.clips],
            "notes": self.notes,
            "failures": self.failures,
            "results": [result.to_json() for result in self.results],
            "left_out": [
                {"method": t.method, "budget": t.budget, "clip": t.clip, "reason": t.reason}
                for t in self.trials
                if t.reason
            ],
            "trials": [
                asdict(t) | {"quality": t.quality._asdict()}
                for t in self.trials
                if t.quality is not None
            ],
            "exit_code": self.exit_code,
        }


def compare(
    items: Sequence[Item],
    recipe: Recipe,
    *,
    budgets: Sequence[Budget],
    methods: Sequence[Method],
    recipe_name: str = "",
    runs: int = 3,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Comparison:
    """Compress every video to every budget by every method, and judge what comes out.

    Args:
        items: videos, or time ranges of them.
        recipe: its sampler and encoder make the tokens; its compressors are not used.
        budgets: what may remain.
        methods: of ``parse_methods``.
        recipe_name: for the record.
        runs: calls of which the median time counts.
        device: where the encoder and the methods run.
        progress: called with a line before each trial.

    Raises:
        BudgetError: no method can run at any of the budgets.
        ConfigError: the recipe cannot be used.
        DecodeError: none of the videos can be read.
    """
    only_encoded = recipe.model_copy(update={"compress": None, "project": None})
    prepared = prepare(only_encoded, device=device)
    done = Comparison(
        recipe=recipe_name,
        encoder=recipe.encode.name,
        device=device,
        budgets=[short_budget(budget) for budget in budgets],
    )
    error: DecodeError | None = None
    for item in items:
        try:
            dense, clip = _dense(prepared, item)
        except DecodeError as problem:
            error = problem
            done.failures.append({"key": item.key, "error": str(problem)})
            continue
        done.clips.append(clip)
        for method in methods:
            _try_budgets(done, method, dense, budgets, runs, progress or (lambda _: None))
    if error is not None and not done.clips:
        raise error
    if all(trial.reason for trial in done.trials):
        raise BudgetError(
            f"none of {len(methods)} methods can run on these videos at "
            f"{', '.join(done.budgets)} (the first: {done.trials[0].reason}): raise the budgets or "
            f"choose other methods"
        )
    return done


def _try_budgets(
    done: Comparison,
    method: Method,
    dense: VideoTokens,
    budgets: Sequence[Budget],
    runs: int,
    progress: Progress,
) -> None:
    """Trials of one method on the clip that was read last."""
    clip, fitting = done.clips[-1], fit_to(method, dense)
    if fitting.note:
        done.notes[method.label] = fitting.note
    for budget in budgets:
        progress(f"{clip.key} {method.label} {short_budget(budget)}")
        trial = try_method(
            fitting,
            dense,
            budget,
            clip=clip.key,
            runs=runs,
            num_frames=clip.frames,
            num_seconds=clip.seconds,
        )
        done.trials.append(trial)


def _dense(prepared: Prepared, item: Item) -> tuple[VideoTokens, Clip]:
    """All tokens of a video."""
    request = prepared.request(item.path, start_s=item.start_s, end_s=item.end_s)
    video = encode_stream(prepared, stream_frames(request), request)
    assert isinstance(video, Gathered)  # noqa: S101  # nothing is compressed here
    clip = Clip(
        key=item.key,
        patches=video.num_tokens,
        frames=video.num_frames,
        seconds=video.num_seconds,
    )
    return video.dense, clip
