"""What every projector is: settings that build a module from the encoder's space to the LLM's."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Literal, NamedTuple, Self, overload

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from vidcomp.config import Config
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.projectors.blocks import FrameEmbedding
from vidcomp.projectors.checkpoint import load_named, read_weights
from vidcomp.types import Grid, Query, TokenBatch, VideoTokens

__all__ = ["Projector", "ProjectorAbout", "ProjectorConfig"]


class ProjectorAbout(NamedTuple):
    """What a reader of the table of projectors wants to know."""

    paper: str = ""
    """Title (first author, year); empty for what everybody knows."""
    tokens: str = "as many as in"
    """How many come out, in words."""
    reads: Literal["any", "grid"] = "any"
    """``any``: tokens that were merged or dropped before too; ``grid``: an encoder's dense grid."""
    checkpoint: str = ""
    """Whose weights ``load_reference`` takes by their own names: repository and class, or model."""
    in_order: bool = True
    """Whether tokens come out in raster order; if not, in that of the latents."""


class ProjectorConfig(Config, ABC):
    """Settings that every projector has."""

    about: ClassVar[ProjectorAbout] = ProjectorAbout()
    asks: ClassVar[type[Query] | None] = None
    """The kind of query that the projector reads besides the video, if any."""
    dim_in: int = Field(ge=1)
    """Features of the encoder's tokens."""
    dim_out: int = Field(ge=1)
    """Features of the language model's embeddings."""
    weights: str | None = Field(None, json_schema_extra={"location": True})
    """A safetensors file with the original checkpoint's names, or with those of
    ``state_dict()``; ``None``: fresh weights."""
    weights_prefix: str = ""
    """Only names of the file that start with this are read, without it: a projector inside a
    whole model's checkpoint, e.g. ``model.mm_projector.``."""
    seed: int = Field(0, ge=0)
    """Fresh weights are drawn from this seed, so that an untrained projector is the same in every
    run; has no effect on weights that are loaded."""

    @property
    def needs(self) -> str:
        """What a call needs besides the tokens of one encoder, in words; empty: nothing.

        A recipe can give none of it: what is kept must not depend on a question.
        """
        return "" if self.asks is None else "a question"

    def check_needs(self) -> None:
        """Refuse settings of a recipe that can never be met.

        Raises:
            ConfigError: a call needs more than the tokens of one encoder.
        """
        if self.needs:
            raise ConfigError(
                f"the projector {self.name!r} of this recipe needs {self.needs}, which belongs to "
                f"no recipe: keep its input, and call projector(video, query=...) when it is asked"
            )

    @abstractmethod
    def module(self) -> "Projector":
        """The module with weights drawn from torch's global random state; see ``build``."""

    def build(self, *, device: str = "cpu") -> "Projector":
        """The module in evaluation mode, with the weights of ``weights`` or of ``seed``.

        The same settings give the same weights on every device, and the global random state is
        left as it was.

        Raises:
            ConfigError: ``weights`` is not a safetensors file or has nothing under the prefix.
            ShapeError: its names or shapes do not fit.
        """
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would also reseed every accelerator.
            torch.default_generator.manual_seed(self.seed)
            projector = self.module()
        if self.weights is not None:
            state, digest = read_weights(self.weights, self.weights_prefix)
            projector.load_reference(state)
            projector.weights_hash = digest
        return projector.to(device).eval()


class Projector(nn.Module, ABC):
    """A learned stage on one video or on a batch, in the type and on the device of its parameters.

    Subclasses write ``project`` and ``num_tokens``.
    """

    config: ProjectorConfig
    is_elastic: bool = False
    """Whether ``budget`` chooses the number of tokens at run time."""
    weights_hash: str = ""
    """sha256 of the file that ``config.weights`` names; empty for fresh weights."""
    reference_names: ClassVar[Sequence[tuple[str, str]]] = ()
    """(pattern, replacement) pairs that turn our parameter names into the original's."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self._query: Query | None = None

    @property
    def asks(self) -> type[Query] | None:
        """The kind of query that it reads besides the video, if any."""
        return self.config.asks

    @property
    def lacks_query(self) -> bool:
        """Whether it reads a query and was bound to none."""
        return self.asks is not None and self._query is None

    def check_query(self) -> None:
        """Refuse to project a video alone, if it takes more.

        Raises:
            ConfigError: it reads a query and was bound to none.
        """
        if self.lacks_query:
            self.config.check_needs()

    def bind(self, query: Query) -> Self:
        """The same projector, weights shared, that asks this where a call asks nothing.

        Raises:
            ConfigError: it reads no query, or one of another kind.
        """
        self._check_query(query)
        bound = copy(self)
        bound._query = query
        return bound

    @property
    def num_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def flops(self, video: VideoTokens | TokenBatch, *, query: Query | None = None) -> int:
        """Floating point operations (two a multiplication with addition) of matrix products,
        convolutions and attention in a call, counted while it runs.

        Args:
            video: what is projected; the numbers in it do not matter.
            query: as in a call.
        """
        from torch.utils.flop_counter import FlopCounterMode  # 0.3 s that others need not wait

        with FlopCounterMode(display=False) as counter:
            # Detached: the counter's hooks want a graph of what requires gradients.
            fixed = {name: value.detach() for name, value in self.named_parameters()}
            functional_call(self, fixed, (video,), {"query": query})
        return int(counter.get_total_flops())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters, in which it computes; float32 if it has none."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @abstractmethod
    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """Tokens out for a dense grid, known before running.

        Raises:
            BudgetError: elastic, and no count within ``budget`` can be reached.
        """

    @abstractmethod
    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """The work behind a call: widths are checked, and tokens have the parameters' type."""

    @overload
    def forward(
        self, video: VideoTokens, budget: int | None = None, *, query: Query | None = None
    ) -> VideoTokens: ...
    @overload
    def forward(
        self,
        video: TokenBatch,
        budget: int | Sequence[int] | None = None,
        *,
        query: Query | Sequence[Query] | None = None,
    ) -> TokenBatch: ...
    def forward(
        self,
        video: VideoTokens | TokenBatch,
        budget: int | Sequence[int] | None = None,
        *,
        query: Query | Sequence[Query] | None = None,
    ) -> VideoTokens | TokenBatch:
        """Videos in the language model's space; provenance and extras follow.

        Args:
            video: one video or a batch with tokens [N, dim_in] of any float type; never written to.
            budget: tokens allowed for each video (a number each for a batch, or one for all).
                Elastic projectors use it; the others check it.  ``None``: no limit.
            query: what is asked about each video (one each for a batch, or one for all), for
                projectors that say what kind of it they read (``asks``); the others refuse it.
                ``None``: what the projector was bound to.

        Returns:
            What came in with tokens [M, dim_out]; gradients flow through the tokens only.

        Raises:
            ShapeError: other features than ``dim_in``, or no dense grid where one is needed.
            BudgetError: a video would have more tokens than its budget.
            ConfigError: a query is missing, of another kind, or not wanted.
        """
        if isinstance(video, VideoTokens):
            if isinstance(budget, Sequence):
                raise BudgetError(f"one video has one budget, got {budget}: pass a single number")
            if isinstance(query, list | tuple):
                raise ConfigError(f"one video has one query, got {len(query)}: pass a single one")
            (out,) = self._run([video], [budget], _one_each(query, 1))
            return out
        if not isinstance(video, TokenBatch):
            raise ShapeError(
                f"the projector {self.config.name!r} projects VideoTokens or a TokenBatch, got "
                f"{type(video).__name__}: pack several videos with TokenBatch.pack"
            )
        budgets = [*budget] if isinstance(budget, Sequence) else [budget] * len(video)
        if len(budgets) != len(video):
            raise BudgetError(
                f"{len(video)} videos need as many budgets, got {len(budgets)}: pass one each"
            )
        queries = _one_each(query, len(video))
        if len(queries) != len(video):
            raise ConfigError(
                f"{len(video)} videos need as many queries, got {len(queries)}: pass one each"
            )
        return TokenBatch.pack(self._run(list(video), budgets, queries), video.keys)

    def many(
        self,
        batch: TokenBatch,
        budgets: Sequence[int] | None = None,
        *,
        queries: Query | Sequence[Query] | None = None,
    ) -> TokenBatch:
        """Every video of a batch in as few passes as possible; equal to one after another."""
        out: TokenBatch = self(batch, budgets, query=queries)
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of the original checkpoint by its own names, or of our own ``state_dict()``.

        A ``FrameEmbedding`` that the checkpoint does not know becomes zero, and changes nothing.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
        names = self.original_names()
        if set(state) == set(names):
            names = {name: name for name in names}
        state = {**self._frame_embeddings(names), **state}
        load_named(self, state, names, title=f"the projector {self.config.name!r}")
        return self

    def original_names(self) -> dict[str, str]:
        """The original checkpoint's name of every entry of ``state_dict()``."""
        names = {}
        for name in self.state_dict():
            original = name
            for pattern, replacement in self.reference_names:
                original = re.sub(pattern, replacement, original)
            names[name] = original
        return names

    def _frame_embeddings(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Zeros for every ``FrameEmbedding`` by its name in a checkpoint."""
        found = {n: m for n, m in self.named_modules() if isinstance(m, FrameEmbedding)}
        return {names[f"{n}.weight"]: torch.zeros_like(m.weight) for n, m in found.items()}

    def _run(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        dtype = self.dtype
        queries = [self._query if query is None else query for query in queries]
        for number, (video, query) in enumerate(zip(videos, queries, strict=True), start=1):
            self._check(video)
            self._check_query(query, f" for video {number} of {len(videos)}" * (len(videos) > 1))
        results = self.project([video.to(dtype=dtype) for video in videos], budgets, queries)
        for out, budget in zip(results, budgets, strict=True):
            if budget is not None and len(out) > budget:
                raise BudgetError(
                    f"the projector {self.config.name!r} gives this video {len(out)} tokens and "
                    f"its budget is {budget}: raise the budget or change the projector's settings"
                )
        return results

    def _check_query(self, query: Query | None, where: str = "") -> None:
        wanted = self.asks
        if query is not None if wanted is None else not isinstance(query, wanted):
            got = "none" if query is None else type(query).__name__
            does = "reads no query" if wanted is None else f"reads a {wanted.__name__}"
            raise ConfigError(
                f"the projector {self.config.name!r} {does}, got {got}{where}: "
                f"{'leave it out' if wanted is None else 'pass query=, or bind one'}"
            )

    def _check(self, video: VideoTokens) -> None:
        wanted, tokens = self.config.dim_in, video.tokens
        if tokens.ndim != 2:
            raise ShapeError(
                f"the projector {self.config.name!r} wants tokens [N, {wanted}], got integer ids "
                f"{list(tokens.shape)}: look them up in their codebook first"
            )
        if tokens.shape[1] != wanted:
            raise ShapeError(
                f"the projector {self.config.name!r} wants tokens of dim_in={wanted} features, got "
                f"{tokens.shape[1]}: set dim_in={tokens.shape[1]} or use the encoder it was "
                f"trained with"
            )


def _one_each(query: object, count: int) -> list[Any]:
    """Queries of as many videos; a text is a sequence, too, and no query."""
    return [*query] if isinstance(query, list | tuple) else [query] * count
