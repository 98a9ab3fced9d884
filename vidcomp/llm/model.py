"""A video language model with everything around it: frames in, answers out.

Legend: T frames, t steps of a grid, k frames of a tubelet.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self, cast

import torch

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor, Stream
from vidcomp.encode.vlm.families import family_of
from vidcomp.encode.vlm.load import load_whole
from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.encode.vlm.tokens import PTS
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError
from vidcomp.llm.adapter import Adapter
from vidcomp.llm.generation import ANSWER_TOKENS
from vidcomp.llm.plan import Part, Plan, check_length, make_plan, slots_of
from vidcomp.llm.prompt import Prompt
from vidcomp.llm.sampling import sampling_of
from vidcomp.llm.session import Answer, Session, answer_of, letter_scores, pieces, sizes_of
from vidcomp.llm.text import Message, TextProcessor, times_of
from vidcomp.llm.verify import check_identity
from vidcomp.sample.base import Sampler
from vidcomp.sample.decode import Backend, DecodeRequest, outline, stream_frames
from vidcomp.types import Frames, VideoTokens

__all__ = ["Clip", "Video", "VideoLLM", "reduced"]

_CHUNK_FRAMES = 16
_STREAM_STEPS = 64
"""Steps of the grid that a stream may hold beside its budget: a chunk, or a segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video, or a range of it, and how it is to be read."""

    path: str | PathLike[str]
    start_s: float | None = None
    """Start of the range in seconds."""
    end_s: float | None = None
    """End of the range in seconds."""
    sampler: Sampler | None = None
    """Which frames; ``None``: as the model's own processor chooses."""
    backend: Backend = "auto"
    """What decodes."""


Video = Clip | str | PathLike[str] | VideoTokens
"""What can be asked about."""


class VideoLLM:
    """Answers questions about videos, of which it reads exactly as many tokens as it is given.

    Args:
        adapter: of the model.
        pixels: what its own video processor does.
        text: what its own processor writes.
        name: folder or hub id of the checkpoint.
        revision: of the hub.
        changed: settings of its video processor that differ from the checkpoint's.
    """

    def __init__(
        self,
        adapter: Adapter,
        pixels: Pixels,
        text: TextProcessor,
        *,
        name: str = "",
        revision: str | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> None:
        self.adapter = adapter
        self.pixels = pixels
        self.text = text
        self.name, self.revision = name, revision
        self.changed = dict(changed or {})

    @cached_property
    def weights_hash(self) -> str:
        """sha256 over the checkpoint's weights and config files, as in caches.

        Raises:
            ConfigError: the checkpoint is gone, or has no safetensors file.
        """
        return find_checkpoint(self.name, self.revision).content_hash()

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
        **settings: Any,  # of the video processor
    ) -> Self:
        """A checkpoint with its processor.

        Args:
            model: a folder, or an id of the Hugging Face hub.
            device: where it runs.
            dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            revision: of the hub.
            settings: of its video processor that are to differ, see ``Pixels.load``.

        Raises:
            ConfigError: it cannot be found or read, or is of no known family.
        """
        name = str(model)
        _check_place(device, dtype)
        checkpoint = find_checkpoint(name, revision, with_text=True)
        loaded = load_whole(checkpoint, dtype).to(device)
        config, folder = loaded.config, checkpoint.folder
        pixels = Pixels.load(
            folder, family_of(config), config, device=device, dtype=loaded.dtype, **settings
        )
        return cls(
            Adapter(loaded),
            pixels,
            TextProcessor.load(folder, config),
            name=name,
            revision=revision,
            changed=settings,
        )

    def request(self, clip: Clip) -> DecodeRequest:
        """How the frames of a clip are read, with the size that the model wants."""
        multiple = self.pixels.frames_multiple
        return DecodeRequest(
            path=fspath(clip.path),
            sampler=clip.sampler or sampling_of(self.pixels),
            resize=self.pixels.rule,
            start_s=clip.start_s,
            end_s=clip.end_s,
            chunk_frames=-(-_CHUNK_FRAMES // multiple) * multiple,
            backend=clip.backend,
        )

    def plan(
        self,
        videos: Video | Sequence[Video],
        budget: Budget | int | str | None = None,
        *,
        compressor: Compressor | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
    ) -> Plan:
        """Tokens and memory of a question, before anything is decoded.

        Args:
            videos: what it is about: files, clips, tokens.
            budget: slots of each video; ``None``: all.
            compressor: what reduces them; where it does not stream all tokens are held.
            max_new_tokens: most tokens of the answer.
        """
        if isinstance(videos, str | PathLike | Clip | VideoTokens):
            videos = [videos]
        parsed = None if budget is None else Budget.parse(budget)
        parts = [self._part(video, parsed, compressor) for video in videos]
        return make_plan(self.adapter, parts, max_new_tokens)

    def _part(self, video: Video, budget: Budget | None, compressor: Compressor | None) -> Part:
        if isinstance(video, VideoTokens):
            grid, seconds = video.grid, video.num_seconds
            num_frames = times_of(video).numel()
            held = len(video)
        else:
            seen = outline(self.request(_clip(video)))
            grid = self.pixels.grid(seen.width, seen.height, seen.num_frames)
            num_frames, seconds, held = seen.num_frames, seen.num_seconds, grid.num_patches
        wanted = held
        if budget is not None:
            wanted = min(held, budget.resolve(grid.num_patches, num_frames, seconds))
        elif isinstance(video, VideoTokens):
            wanted += len(self.adapter.layout(grid)) - grid.num_patches
        else:
            wanted = len(self.adapter.layout(grid))
        if compressor is not None and compressor.streaming:
            held = min(held, wanted + _STREAM_STEPS * grid.per_frame)
        return Part(num_frames, grid, slots_of(self.adapter, grid, wanted), held)

    def encode(
        self,
        clip: Clip | str | PathLike[str],
        *,
        compressor: Compressor | None = None,
        budget: Budget | int | str | None = None,
    ) -> VideoTokens:
        """Tokens of the model's own encoder, chunk by chunk.

        Args:
            clip: a video or a range of it.
            compressor: what reduces them; one that streams never holds more than its budget and a
                chunk, others see all tokens at the end.
            budget: slots that they may take, structural rows (newlines, CLS) included.

        Raises:
            DecodeError: the file does not give its frames.
            BudgetError: the budget has no room for a patch beside structural rows.
            ConfigError: one of compressor and budget without the other.
        """
        if (compressor is None) != (budget is None):
            raise ConfigError(
                "a compressor and a budget go together, got one of them: give both, or neither "
                "for all tokens"
            )
        clip = _clip(clip)
        request = self.request(clip)
        chunks = self.chunks(stream_frames(request))
        if compressor is None:
            return VideoTokens.cat(list(chunks))
        seen = outline(request)
        grid = self.pixels.grid(seen.width, seen.height, seen.num_frames)
        slots = Budget.parse(cast("Budget | int | str", budget)).resolve(
            grid.num_patches, seen.num_frames, seen.num_seconds
        )
        fixed = len(self.adapter.layout(grid)) - grid.num_patches
        return reduced(chunks, compressor, self.adapter.room(slots, fixed), (grid.h, grid.w))

    def chunks(self, frames: Iterable[Frames]) -> Iterator[VideoTokens]:
        """Tokens of consecutive chunks of one video, positions and times global."""
        for chunk in frames:
            made = self.pixels.prepare(chunk)
            video = self.adapter.encode(made.inputs, made.grid, made.spans, first_t=made.first_t)
            yield replace(video, frame_extras={**video.frame_extras, PTS: made.pts_s})

    def prompt(self, messages: str | Sequence[Message], videos: Sequence[VideoTokens]) -> Prompt:
        """The full sequence, see ``TextProcessor.inputs``."""
        inputs = self.text.inputs(messages, videos)
        return self.adapter.prompt(inputs, [video.grid for video in videos])

    def check_length(
        self, prompt: Prompt, videos: Sequence[VideoTokens], settings: Mapping[str, Any]
    ) -> None:
        """Refuse a prompt that is too long for the model.

        Raises:
            BudgetError: it and ``max_new_tokens`` of the settings exceed its context.
        """
        num_prompt, num_video = sizes_of(prompt, videos)
        config = self.adapter.model.config
        check_length(config, num_prompt, num_video, settings.get("max_new_tokens"))

    def ask(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> Answer:
        """The answer to a question about videos that stand before it.

        Args:
            messages: a question, or turns of a conversation.
            videos: of ``encode``, or from a cache.
            settings: as ``max_new_tokens``, ``do_sample``.
        """
        start_s = time.perf_counter()
        prompt = self.prompt(messages, videos)
        self.check_length(prompt, videos, settings)
        (ids,) = self.adapter.generate(prompt, videos, **settings)
        return answer_of(self.text.decode(ids), prompt, videos, len(ids), start_s)

    def stream(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> Iterator[str]:
        """The answer piece by piece; closing the iterator stops the model."""
        prompt = self.prompt(messages, videos)
        self.check_length(prompt, videos, settings)
        inputs = self.adapter.inject(prompt, videos)
        return pieces(self.adapter, self.text, inputs, settings)

    @torch.no_grad()
    def option_scores(
        self,
        messages: str | Sequence[Message],
        videos: Sequence[VideoTokens],
        options: Sequence[str],
    ) -> torch.Tensor:
        """[options] log-probabilities of each option as the first token of the answer.

        Args:
            messages: a question whose options are named by letters.
            videos: see ``ask``.
            options: letters; each with and without a space before it counts.

        Raises:
            ConfigError: an option is no single token.
        """
        inputs = self.adapter.inject(self.prompt(messages, videos), videos)
        logits = self.adapter.model(**inputs, logits_to_keep=1).logits[0, -1]
        return letter_scores(self.text.tokenizer, logits, options)

    @torch.no_grad()
    def verify(self) -> float:
        """Ask once with pixels and once with their tokens: the model must see no difference.

        Worth a call after transformers is upgraded: it would change positions or the way that
        features enter without a word.

        Returns:
            The largest difference of logits, 0 in float32.

        Raises:
            ConfigError: the model cannot run on pixels, or answers otherwise; says what broke.
        """
        return check_identity(self)

    def session(self, videos: Sequence[VideoTokens]) -> Session:
        """The videos, read once for many questions."""
        return Session(self, videos)


def _check_place(device: str, dtype: str) -> None:
    known = ("auto", "float32", "bfloat16", "float16", "float64")
    if dtype not in known:
        raise ConfigError(f"the dtype is one of {', '.join(known)}, got {dtype!r}: choose one")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the device {device!r} cannot be used ({reason}): vidcomp doctor shows what works here"
        ) from error


def _clip(video: Clip | str | PathLike[str]) -> Clip:
    return video if isinstance(video, Clip) else Clip(path=video)


def reduced(
    chunks: Iterable[VideoTokens], compressor: Compressor, budget: int, grid_hw: tuple[int, int]
) -> VideoTokens:
    """A video compressed while it arrives where the method can, else at the end.

    Frame extras of all frames stay.
    """
    if not compressor.streaming:
        return compressor(VideoTokens.cat(list(chunks)), budget)
    stream: Stream = compressor.stream(budget, grid_hw, provenance=True)
    extras: dict[str, list[torch.Tensor]] = {}
    for chunk in chunks:
        stream.update(chunk)
        for name, value in chunk.frame_extras.items():
            extras.setdefault(name, []).append(value)
    joined = {name: torch.cat(parts) for name, parts in extras.items()}
    return replace(stream.result(), frame_extras=joined)
