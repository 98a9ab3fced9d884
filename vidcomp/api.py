"""The one-line calls; the only file that composes the layers inside the library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vidcomp.budget import Budget
from vidcomp.compress.base import Compressor
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import Recipe, load_recipe
from vidcomp.encode.base import Encoder
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize
from vidcomp.gathering import Arriving, Gathered, Streamed
from vidcomp.llm.asking import ask
from vidcomp.registry import COMPRESSORS, ENCODERS, PROJECTORS, SAMPLERS, SELECTORS
from vidcomp.sample.base import Sampler
from vidcomp.sample.decode import Backend, DecodeRequest, Live, stream_frames
from vidcomp.sample.selectors.base import FrameSelector, SelectorStream
from vidcomp.types import Frames, Source, VideoTokens

if TYPE_CHECKING:
    from vidcomp.encode.base import EncoderConfig
    from vidcomp.projectors.base import Projector, ProjectorConfig

__all__ = [
    "Arriving",
    "Gathered",
    "Prepared",
    "Streamed",
    "ask",
    "compress",
    "compressor",
    "encode_stream",
    "encoder",
    "prepare",
    "projector",
    "sampler",
    "selector",
]


def sampler(name: str, **settings: Any) -> Sampler:  # settings are validated
    """The frame sampler of that name, e.g. ``sampler("uniform", num_frames=32)``.

    Raises:
        ConfigError: an unknown name or setting.
    """
    made: Sampler = SAMPLERS.make(name, **settings)
    return made


def selector(name: str, **settings: Any) -> FrameSelector:  # settings are validated
    """The selector of that name, e.g. ``selector("difffp", threshold=0.1)(frames, grid)``.

    Raises:
        ConfigError: an unknown name or setting.
    """
    made: FrameSelector = SELECTORS.make(name, **settings)
    return made


def encoder(
    name: str,
    *,
    device: str = "cpu",
    compile: bool = False,  # noqa: A002  # torch's own word
    **settings: Any,  # validated by the settings class
) -> Encoder:
    """The encoder of that name with its weights loaded, e.g. ``encoder("hf", model="...")``.

    Raises:
        ConfigError: an unknown name or setting, or weights that cannot be found.
    """
    _check_device(device)
    built: Encoder = ENCODERS.make(name, **settings).build(device=device, compile=compile)
    return built


def compressor(name: str, **settings: Any) -> Compressor:  # settings are validated
    """The compressor of that name, e.g. ``compressor("tome")(video, budget=196)``.

    Raises:
        ConfigError: an unknown name or setting.
    """
    made: Compressor = COMPRESSORS.make(name, **settings)
    return made


def projector(name: str, *, device: str = "cpu", **settings: Any) -> "Projector":
    """The projector of that name, e.g. ``projector("linear", dim_in=768, dim_out=4096)``.

    Raises:
        ConfigError: an unknown name or setting.
    """
    _check_device(device)
    built: Projector = PROJECTORS.make(name, **settings).build(device=device)
    return built


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prepared:
    """A recipe made ready to run: weights loaded, stages joined."""

    recipe: Recipe
    encoder: Encoder
    pipeline: Pipeline | None
    projector: "Projector | None"

    @property
    def weights(self) -> dict[str, str]:
        """Content hashes of the loaded weights by section of the recipe."""
        hashes = {"encode": self.encoder.weights_hash}
        if self.projector is not None:
            hashes["project"] = self.projector.weights_hash
        return {name: value for name, value in hashes.items() if value}

    def request(
        self,
        path: str | Path,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        backend: Backend = "auto",
        live: Live | None = None,
    ) -> DecodeRequest:
        """What a reader must deliver for one video, a range of it, or a source without an end."""
        multiple = self.encoder.frames_multiple
        return DecodeRequest(
            path=str(path),
            sampler=cast("Sampler", self.recipe.sample),
            resize=self.encoder.resize,
            start_s=start_s,
            end_s=end_s,
            chunk_frames=-(-_CHUNK_FRAMES // multiple) * multiple,
            on_damage=self.encoder.config.on_damage,
            backend=backend,
            live=live,
        )

    def resize_of(self, source: Source, num_frames: int) -> Resize:
        """What a reader did to the pictures of a video of which so many frames were sampled."""
        resize = self.encoder.resize
        if isinstance(resize, Resize):
            return resize
        return resize(source.height, source.width, num_frames)

    def selection(self) -> SelectorStream | None:
        """What chooses patches of one video, chunk by chunk; ``None`` if all are encoded."""
        selector = cast("FrameSelector | None", self.recipe.select)
        if selector is None:
            return None
        return selector.stream(tubelet=self.encoder.tubelet, patch=self.encoder.patch)

    def gather(self, request: DecodeRequest, *, provenance: bool = False) -> Arriving:
        """What takes the chunks of one video in: holds them, or compresses them as they come.

        Args:
            request: file and range.
            provenance: know what every patch became, even where the recipe does not store it and
                memory grows with the video for it.
        """
        settings = self.recipe.compress
        if settings is None or not settings.stream:
            return Gathered(self, request)
        return Streamed(self, request, provenance=provenance or self.recipe.store.assign)

    def encode(
        self, batch: Sequence[Frames], keep: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """Tokens on the full grid for chunks of one or of several videos.

        Args:
            batch: chunks.
            keep: a mask of patches for each, or ``None`` for all of its patches.
        """
        with torch.no_grad():
            return self.encoder.many(batch, keep)

    def budget(self, num_tokens: int, num_frames: int, num_seconds: float) -> int:
        """The recipe's budget as a count for one video; all tokens where it sets none."""
        settings = self.recipe.compress
        if settings is None:
            return num_tokens
        return settings.budget.resolve(num_tokens, num_frames, num_seconds)

    def reduce(self, dense: VideoTokens, num_frames: int, num_seconds: float) -> VideoTokens:
        """Compressed to the budget, then projected, as the recipe says.

        Args:
            dense: tokens of the whole video on its full grid (those of the selected patches).
            num_frames: frames that were sampled.
            num_seconds: length of the sampled range.

        Raises:
            BudgetError: the stages cannot reach the budget.
        """
        with torch.no_grad():
            video = dense
            if self.pipeline is not None:
                video = self.pipeline(video, self.budget(len(dense), num_frames, num_seconds))
            return video if self.projector is None else self.projector(video)

    def check_query(self) -> None:
        """Refuse what nobody can ask: what is stored must not depend on a question.

        Raises:
            ConfigError: a stage or the projector reads a query and was bound to none, or the
                projector reads several encoders.
        """
        if self.pipeline is not None:
            self.pipeline.check_query()
        if self.projector is not None:
            self.projector.check_query()

    def check_budget(self) -> None:
        """Plan a video of the size that the sampler and the encoder announce, if they do.

        Raises:
            BudgetError: such a video could not be compressed to the budget.
            ConfigError: a stage or the projector wants what a recipe does not have, see
                ``check_query``.
        """
        self.check_query()
        settings, resize = self.recipe.compress, self.encoder.resize
        num_frames = getattr(self.recipe.sample, "num_frames", None)
        if self.pipeline is None or settings is None or num_frames is None:
            return
        if (
            not isinstance(resize, Resize)
            or resize.mode in ("smart", "none")
            or settings.budget.per_second is not None
        ):
            return  # known only when a video is
        if self.recipe.select is not None:
            return  # the same
        grid = self.encoder.grid(num_frames, resize.height, resize.width)
        blank = VideoTokens.from_grid(
            torch.zeros(grid.num_patches, 1), grid, torch.zeros(grid.t, 2)
        )
        self.pipeline.plan(blank, self.budget(grid.num_patches, num_frames, 0.0))


_CHUNK_FRAMES = 32


def prepare(
    recipe: Recipe,
    *,
    device: str = "cpu",
    compile: bool = False,  # noqa: A002  # torch's own word
    batch_size: int = 32,
) -> Prepared:
    """Load a recipe's weights and join its stages.

    Args:
        recipe: everything that decides the tokens.
        device: where the encoder and the projector run.
        compile: use torch.compile for the encoder.
        batch_size: most frames of one pass of the encoder.

    Raises:
        ConfigError: weights cannot be found or do not fit.
        MissingExtraError: an optional package is needed.
    """
    _check_device(device)
    encode = cast("EncoderConfig", recipe.encode)
    project = cast("ProjectorConfig | None", recipe.project)
    built = encode.build(device=device, compile=compile, batch_size=batch_size)
    pipeline = None if recipe.compress is None else Pipeline(stages=recipe.compress.stages)
    if pipeline is not None and recipe.compress is not None and recipe.compress.stream:
        pipeline.check_stream()
        _check_reads(project)
    if built.num_codes:
        _check_for_ids(encode.name, pipeline, project)
    elif project is not None and project.dim_in != built.dim:
        raise ConfigError(
            f"the projector {project.name!r} takes tokens of {project.dim_in} features and the "
            f"encoder {encode.name!r} gives {built.dim}: set project.dim_in={built.dim}"
        )
    return Prepared(
        recipe=recipe,
        encoder=built,
        pipeline=pipeline,
        projector=None if project is None else project.build(device=device).eval(),
    )


def _check_reads(project: "ProjectorConfig | None") -> None:
    """Refuse projectors that need more than what a stream leaves."""
    if project is not None and project.about.reads == "grid":
        raise ConfigError(
            f"the projector {project.name!r} reads the encoder's dense grid, which a stream does "
            f"not hold: set compress.stream=false, or use a projector of compressed tokens"
        )


def _check_for_ids(
    encoder: str, pipeline: Pipeline | None, project: "ProjectorConfig | None"
) -> None:
    """Refuse to compute with ids, which are names of codes and no vectors."""
    if project is not None:
        raise ConfigError(
            f"the encoder {encoder!r} gives ids and the projector {project.name!r} takes features: "
            f"leave project out, or use an encoder of features"
        )
    if pipeline is not None and pipeline.needs_features:
        names = [stage.compressor.name for stage in pipeline.stages]
        raise ConfigError(
            f"the encoder {encoder!r} gives ids, which the stages {names} would have to compare or "
            f"average: use stages that choose by place, 'uniform', 'uniform_frames', 'stride' or "
            f"'random'"
        )


def compress(
    path: str | Path,
    *,
    budget: Budget | int | str | None = None,
    recipe: str | Path | Recipe = "embedded",
    start_s: float | None = None,
    end_s: float | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
) -> VideoTokens:
    """The tokens of one video, or of a time range of it.

    Args:
        path: video file.
        budget: tokens that may remain: a number, ``"10%"`` or a ``Budget``; by default the
            recipe's own.
        recipe: name, YAML file or ``Recipe``.
        start_s: start of the range in seconds.
        end_s: end of the range in seconds.
        device: where the encoder runs.
        backend: ``auto``, ``decord``, ``pyav`` or ``torchcodec``.

    Raises:
        DecodeError: the file does not give its frames.
        ConfigError: the recipe cannot be used.
        BudgetError: the stages cannot reach the budget.
    """
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if budget is not None:
        settings = settings.with_budget(Budget.parse(budget))
    prepared = prepare(settings, device=device)
    prepared.check_query()
    request = prepared.request(path, start_s=start_s, end_s=end_s, backend=backend)
    return encode_stream(prepared, stream_frames(request), request).reduce()


def encode_stream(
    prepared: Prepared,
    chunks: Iterator[Frames],
    request: DecodeRequest,
    *,
    provenance: bool = False,
) -> Arriving:
    """Encode chunk after chunk: the tokens of the whole video and what is known of it.

    Args:
        prepared: the recipe.
        chunks: what a reader gives for the request.
        request: file and range.
        provenance: see ``Prepared.gather``.
    """
    video = prepared.gather(request, provenance=provenance)
    for chunk in chunks:
        (tokens,) = prepared.encode([chunk], [video.keep(chunk)])
        video.add(chunk, tokens)
    return video


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the device {device!r} cannot be used ({reason}): vidcomp doctor shows what works here"
        ) from error
