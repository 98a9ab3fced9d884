"""``vidcomp ask``: a video, or its tokens from a cache, and questions in; answers out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vidcomp.encode.vision import quiet
from vidcomp.errors import ConfigError, StoreMissError, StoreStaleError
from vidcomp.llm.asking import Compressing
from vidcomp.llm.cached import fitting, identity_of, recipe_of
from vidcomp.llm.generation import ANSWER_TOKENS
from vidcomp.llm.model import Clip, VideoLLM
from vidcomp.llm.plan import Plan
from vidcomp.llm.session import Answer
from vidcomp.sample.decode.probe import probe
from vidcomp.store import CacheWriter, TokenCache
from vidcomp.types import VideoTokens

from .inputs import Item, expand, source_id

__all__ = ["Asked", "Question", "ask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, about what, and how."""

    questions: Sequence[str]
    model: str
    """Folder or hub id."""
    video: str | None = None
    """A file; ``None``: the record ``id`` of the cache."""
    cache: str | None = None
    """Tokens are read from there, and written to it if a video is given."""
    id: str | None = None
    """Key of a record."""
    start_s: float | None = None
    end_s: float | None = None
    budget: str = "1024"
    """Slots of the video, or a share as ``10%``."""
    method: str = "partition"
    device: str = "cpu"
    dtype: str = "auto"
    revision: str | None = None
    max_new_tokens: int = ANSWER_TOKENS

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: no question, or neither a video nor a record.
        """
        if not self.questions or not all(text.strip() for text in self.questions):
            raise ConfigError(
                'a question was wanted, got none or an empty one: vidcomp ask VIDEO "question"'
            )
        if (self.video is None) == (self.id is None):
            raise ConfigError(
                "ask about a VIDEO, or about a cached record with --cache DIR --id ID, got "
                + ("neither" if self.video is None else "both")
                + ": give one of them"
            )
        if self.id is not None and self.cache is None:
            raise ConfigError(f"--id {self.id} names a record of a cache: add --cache DIR")
        ranged = self.start_s is not None or self.end_s is not None
        if self.id is not None and ranged:
            raise ConfigError(
                f"the record {self.id!r} has its own range: leave --start and --end out, or ask "
                f"about the video"
            )


@dataclass(slots=True, kw_only=True)
class Asked:
    """The answers, and what they cost."""

    plan: Plan
    num_tokens: int
    """Of the model's own encoder, before anything was left out."""
    num_video: int
    """Slots that the video takes in the prompt, structural rows included."""
    answers: list[Answer]
    from_cache: bool
    """Whether the tokens were read from a cache."""
    seconds: dict[str, float] = field(default_factory=dict)
    """``load`` the model, ``video`` (decode, encode, compress, or read), ``answers``."""

    def to_json(self, job: Question) -> dict[str, Any]:
        """One JSON object."""
        said = [
            {"question": text, "answer": answer.text, **_counts(answer)}
            for text, answer in zip(job.questions, self.answers, strict=True)
        ]
        about = {k: v for k, v in asdict(job).items() if v is not None and k != "questions"}
        return {
            **about,
            "answers": said,
            "frames": self.plan.num_frames,
            "tokens_before": self.num_tokens,
            "tokens_after": self.num_video,
            "from_cache": self.from_cache,
            "plan": asdict(self.plan),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def ask(job: Question, tell: Callable[[str], None] = lambda _: None) -> Asked:
    """Answer the questions of a job; what cannot fit is refused before anything is decoded.

    Args:
        job: what is asked.
        tell: called with lines about the plan and its cost.

    Raises:
        ConfigError: contradicting settings, a model that cannot be loaded, tokens of another one.
        DecodeError: the file does not give its frames.
        BudgetError: what does not fit the context or the memory.
        StoreError: the cache cannot be read or written, has no such record, or holds other tokens.
    """
    job.check()
    how = Compressing.of(job.method, job.budget)
    cache = _look(job)
    clock = _Clock()
    with quiet():
        model = VideoLLM.load(job.model, device=job.device, dtype=job.dtype, revision=job.revision)
    clock.lap("load")
    work = _Work(model, how, job)
    cached = work.read(cache)
    known = cached if cached is not None else work.clip()
    plan = model.plan(
        known, how.budget, compressor=how.compressor, max_new_tokens=job.max_new_tokens
    )
    tell(str(plan))
    plan.check()
    video = work.make() if cached is None else how.tokens(model, cached)
    clock.lap("video")
    with quiet():
        said = how.answers(model, job.questions, [video], max_new_tokens=job.max_new_tokens)
    clock.lap("answers")
    asked = Asked(
        plan=plan,
        num_tokens=video.grid.num_patches,
        num_video=said[0].num_video,
        answers=said,
        from_cache=cached is not None,
        seconds=clock.laps,
    )
    tell(_cost(asked))
    return asked


@dataclass(frozen=True, slots=True)
class _Work:
    """Where the tokens of a job come from."""

    model: VideoLLM
    how: Compressing
    job: Question

    def clip(self) -> Clip:
        """The file and its range."""
        return Clip(path=self.job.video or "", start_s=self.job.start_s, end_s=self.job.end_s)

    def read(self, cache: TokenCache | None) -> VideoTokens | None:
        """Tokens from the cache; ``None`` if they have to be made.

        Raises:
            StoreStaleError: the cache has the video with fewer tokens than asked for.
        """
        job = self.job
        if cache is None:
            return None
        if job.id is not None:
            return fitting(self.model, cache, job.id)
        item = _item(job)
        if item.key not in cache:
            return None
        now, then = source_id(item.path), cache.info(item.key).source
        if now is None or then is None or not now.matches(then):
            return None
        video = fitting(self.model, cache, item.key)
        plan = self.model.plan(self.clip(), self.how.budget)
        rows = plan.num_video - self.model.plan(video).num_video
        if rows > 0 and len(video) < video.grid.num_patches:
            raise StoreStaleError(
                f"{cache.path} has {item.key!r} with {len(video):,} tokens, {rows:,} fewer than "
                f"the budget: lower the budget to {plan.num_video - rows:,}, or use another folder"
            )
        return video

    def make(self) -> VideoTokens:
        """Decode, encode and compress the video; keep the tokens if there is a cache."""
        if self.job.cache is None:
            return self.how.tokens(self.model, self.clip())
        model, how, item = self.model, self.how, _item(self.job)
        request = model.request(self.clip())
        kept = how.before
        recipe = recipe_of(model, request.sampler, kept.compressor, kept.budget)
        source = source_id(item.path)
        with CacheWriter(
            self.job.cache,
            identity=identity_of(model, recipe),
            weights={"encode": model.weights_hash},
            settings=recipe.store,
        ) as writer:
            video = how.tokens(model, self.clip())
            writer.add(item.key, video, _meta(item, video), source)
        return video


def _meta(item: Item, video: VideoTokens) -> dict[str, Any]:
    """What later commands want to know of a record."""
    return {
        "source": {"path": item.path},
        "start_s": item.start_s,
        "end_s": item.end_s,
        "seconds": video.num_seconds,
        "tokens_in": video.grid.num_patches,
    }


def _look(job: Question) -> TokenCache | None:
    """The cache, if there is one; tells of missing files and records before a model is loaded."""
    if job.video is not None:
        probe(job.video)
    if job.cache is None:
        return None
    try:
        cache = TokenCache.open(job.cache)
    except StoreMissError:
        if job.id is not None:
            raise
        return None
    if job.id is not None:
        cache.info(job.id)
    return cache


def _item(job: Question) -> Item:
    """The record of a video, named as ``extract`` names it."""
    (item,) = expand([job.video or ""], start_s=job.start_s, end_s=job.end_s)
    return item


def _counts(answer: Answer) -> dict[str, float]:
    return {
        "prompt_tokens": answer.num_prompt,
        "video_tokens": answer.num_video,
        "new_tokens": answer.num_new,
        "seconds": round(answer.seconds, 3),
    }


def _cost(asked: Asked) -> str:
    new = sum(answer.num_new for answer in asked.answers)
    prompt = max(answer.num_prompt for answer in asked.answers)
    seconds = asked.seconds
    whence = "read from the cache" if asked.from_cache else "made"
    return (
        f"{asked.num_tokens:,} tokens to {asked.num_video:,} of a prompt of {prompt:,}, {new:,} "
        f"new; model loaded in {seconds['load']:.2f} s, tokens {whence} in {seconds['video']:.2f} "
        f"s, answered in {seconds['answers']:.2f} s"
    )


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
