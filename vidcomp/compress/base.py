"""What every compressor is: settings, a plan of the exact count, and one call.

A new method is a new file: subclass ``Prune`` and say which rows stay, ``Merge`` and say which rows
go together, or ``Compressor`` for all else, and register the class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import PrivateAttr
from torch import Tensor

from vidcomp.config import Config
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.geometry import in_raster_order
from vidcomp.functional.merge import merge
from vidcomp.types import QueryFeatures, TokenBatch, VideoTokens

__all__ = [
    "About",
    "Compressor",
    "Kind",
    "Merge",
    "Prune",
    "Published",
    "QueryAware",
    "Scaling",
    "Stream",
    "row_extra",
]

Kind = Literal["prune", "merge", "resample", "mixed"]
"""``prune`` returns a subset of the rows; ``merge`` conserves mass and the mass-weighted sum;
``resample`` carries soft provenance; ``mixed`` is a pipeline of several kinds."""


Scaling = Literal["linear", "parts", "quadratic"]
"""How time grows with the length of a video: ``parts`` is linear in the number of parts of a fixed
size (frames, clips, segments), each of which costs the square of its own."""


class Published(NamedTuple):
    """A figure of somebody else's: how well a language model answers with fewer tokens."""

    model: str
    share: float
    """Percent of the tokens, as the source counts them: most count those that enter the model."""
    score: float
    """Percent of the same model's score with all tokens, in the mean over benchmarks."""
    source: str
    """Whose table; figures of different tables do not compare."""


class About(NamedTuple):
    """What a reader of the table of methods wants to know."""

    paper: str = ""
    """Title (first author, year of the first version), number at arXiv where it has one; several
    are separated by ``;``; empty for what everybody knows."""
    needs: tuple[str, ...] = ("features",)
    """Of ``features``, ``saliency``, ``keys``, ``query``; none: only the places of the tokens."""
    cost: str = "N D"
    """Leading term for N tokens of D features, K kept, T frames of n tokens."""
    scaling: Scaling = "linear"
    published: tuple[Published, ...] = ()
    """How well language models answer, by those who measured it."""
    accuracy: str = ""
    """What was published but is no share of a score: with the model, the budget and the source."""


class Compressor(Config, ABC):
    """A parameter-free stage.  Subclasses say their ``kind`` and write ``reduce``."""

    kind: ClassVar[Kind]
    about: ClassVar[About] = About()
    streaming: ClassVar[bool] = False
    """Whether ``stream`` works."""
    streams_patches: ClassVar[bool] = False
    """Whether the online form takes one token a patch only: no stage before it may merge."""

    @property
    def exact(self) -> bool:
        """True if ``plan`` is ``min(budget, N)`` for every video; if not, ``count`` tells."""
        return True

    @property
    def needs_features(self) -> bool:
        """Whether the stage computes with the tokens; if not, their places are enough."""
        return "features" in self.about.needs

    def check_rows(self, video: VideoTokens) -> None:
        """Nothing, if the stage can work on such tokens.

        Raises:
            ShapeError: they are ids of a codebook, which cannot be compared or averaged.
        """
        if video.tokens.ndim == 1 and self.needs_features:
            raise ShapeError(
                f"{self.name!r} computes with features, got {video.tokens.dtype} ids: use a stage "
                f"that chooses by place ('uniform', 'uniform_frames', 'stride' or 'random')"
            )

    def plan(self, video: VideoTokens, budget: int) -> int:
        """The exact number of tokens that a call will return.

        Raises:
            BudgetError: no count within ``budget`` can be reached.
            ShapeError: the stage needs a dense grid or features, and the video has none.
        """
        _check(budget)
        if budget >= len(video):
            return len(video)
        self.check_rows(video)
        return self.count(video, budget)

    def __call__(self, video: VideoTokens, budget: int) -> VideoTokens:
        """``plan(video, budget)`` tokens in raster order; the input itself if nothing must go.

        Args:
            video: N tokens; never written to.
            budget: tokens allowed to remain, at least 1.

        Raises:
            BudgetError: ``budget`` is below 1 or cannot be reached.
            ShapeError: the stage needs a dense grid or features, and the video has none.
        """
        _check(budget)
        if budget >= len(video):
            return video
        self.check_rows(video)
        out = self.reduce(video, budget)
        assert 1 <= len(out) <= budget, f"{self!r} broke its promise"  # noqa: S101  # our own bug
        return out

    def count(self, video: VideoTokens, budget: int) -> int:  # noqa: ARG002  # for subclasses
        """The number of tokens for ``1 <= budget < len(video)``; override it if not exact."""
        return budget

    @abstractmethod
    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The work behind a call: ``1 <= budget < len(video)`` is already checked."""

    def many(self, batch: TokenBatch, budgets: Sequence[int]) -> TokenBatch:
        """Every video of a batch to its own budget; equal to calling one after another.

        Raises:
            BudgetError: not one budget a video, or one that a call would refuse.
        """
        if len(budgets) != len(batch):
            raise BudgetError(
                f"a batch of {len(batch)} videos needs as many budgets, got {len(budgets)}: give "
                f"one a video"
            )
        videos = [self(video, budget) for video, budget in zip(batch, budgets, strict=True)]
        return TokenBatch.pack(videos, batch.keys)

    def stream(
        self,
        budget: int,
        grid_hw: tuple[int, int],
        *,
        provenance: bool = False,
    ) -> "Stream":
        """The state of one video whose tokens arrive chunk by chunk.

        Args:
            budget: tokens that may remain of the whole video, at least 1.
            grid_hw: height and width of the grid of every frame.
            provenance: keep ``assign``, which grows with the video: 8 bytes a patch where rows are
                chosen or clustered, 32 in ``partition``, about 50 in memories that merge, and more
                where chunks carry ``weights``; and frame extras.

        Raises:
            BudgetError: ``budget`` is below 1.
            ConfigError: the stage has no online form, or not with these settings.
        """
        _check(budget)
        return self._stream(budget, grid_hw, provenance)

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> "Stream":  # noqa: ARG002  # for subclasses
        raise ConfigError(
            f"{self.name!r} has no online form: collect the chunks with VideoTokens.cat and call "
            f"it, or use one of the methods that docs/methods.md calls streaming"
        )


class Stream(ABC):
    """A video that arrives in chunks; memory is bounded by the budget and a chunk.

    ``update`` takes chunks in the order of time, as encoders give them: positions count on, and
    every chunk has all patches of its frames or fewer.  ``result`` may be asked for at any time,
    changes nothing, and more chunks may follow.
    """

    @abstractmethod
    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, or one that goes back in time.
        """

    @abstractmethod
    def result(self) -> VideoTokens:
        """What remains of all that was seen: ``min(budget, tokens so far)`` in raster order.

        Raises:
            ShapeError: nothing was seen yet.
        """


class Prune(Compressor):
    """A stage that keeps some rows as they are."""

    kind: ClassVar[Kind] = "prune"

    @abstractmethod
    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows that stay, all different, in ascending order."""

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The kept rows."""
        return in_raster_order(video.select(self.keep(video, budget)))


class Merge(Compressor):
    """A stage that averages groups of rows."""

    kind: ClassVar[Kind] = "merge"

    @abstractmethod
    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row, numbered without gaps."""

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        return merge(video, self.groups(video, budget))


class QueryAware(Compressor):
    """A stage that needs to know what is asked: ``stage.bind(query)`` is a stage that does."""

    _query: QueryFeatures | None = PrivateAttr(default=None)

    def bind(self, query: QueryFeatures) -> Self:
        """The same settings with a query."""
        bound = self.model_copy()
        bound._query = query
        return bound

    @property
    def asks(self) -> bool:
        """Whether these settings need a query."""
        return True

    @property
    def lacks_query(self) -> bool:
        """Whether it needs a query and was given none."""
        return self.asks and self._query is None

    @property
    def query(self) -> QueryFeatures:
        """What the stage was bound to.

        Raises:
            ConfigError: nothing.
        """
        if self._query is None:
            raise ConfigError(
                f"{self.name!r} chooses tokens by a question and was given none: bind it, "
                f"stage.bind(QueryFeatures(...))"
            )
        return self._query


def row_extra(video: VideoTokens, name: str, user: str) -> Tensor:
    """The extra ``name`` of a video, for the stage called ``user``.

    Raises:
        ShapeError: the video does not carry it.
    """
    if name not in video.extras:
        raise ShapeError(
            f"{user!r} needs extras[{name!r}], got {sorted(video.extras) or 'no extras'}: let the "
            f"encoder keep it, or change the stage's settings"
        )
    return video.extras[name]


def _check(budget: int) -> None:
    if budget < 1:
        raise BudgetError(f"a budget is at least 1 token, got {budget}: raise it")
