"""Stages that choose by a question, bound to its text; cached tokens narrowed to what is asked.

Legend: Q texts or words, T frames, D features.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, TypeVar, cast

import torch

from vidcomp.compress.base import Compressor, QueryAware
from vidcomp.compress.pipeline import Pipeline
from vidcomp.errors import ConfigError
from vidcomp.functional.similarity import cosine
from vidcomp.llm.towers import JOINT, Reader, TextTower
from vidcomp.projectors.base import Projector
from vidcomp.sample.aks import AKS
from vidcomp.sample.base import Sampler
from vidcomp.sample.decode import Backend, DecodeRequest, stream_frames
from vidcomp.sample.fps import Fps
from vidcomp.types import Query, QueryFeatures, QueryIds, VideoTokens

__all__ = [
    "bound",
    "choose_frames",
    "narrow",
    "query_for",
    "query_ids",
    "text_features",
    "word_features",
]

Asking = TypeVar("Asking", bound=Compressor | Projector)


def text_features(reader: Reader, texts: str | Sequence[str]) -> QueryFeatures:
    """Texts in the space in which tokens or frames are compared with them.

    Args:
        reader: ``TextTower`` or ``WordRows``.
        texts: one or several, each one row (more, where it is too long for the tower).

    Raises:
        ConfigError: no text.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ConfigError("a query is made of at least one text, got none: give one")
    return QueryFeatures(embedding=torch.cat([reader.rows(text) for text in texts]))


def word_features(reader: Reader, text: str) -> QueryFeatures:
    """The words of a text, one row each (each piece of a word).

    Args:
        reader: ``TextTower`` or ``WordRows``.
        text: any.

    Raises:
        ConfigError: no text.
    """
    return QueryFeatures(embedding=reader.words(text))


def query_ids(tokenizer: Any, text: str) -> QueryIds:
    """A text as ids, with the special tokens that the tokenizer adds.

    Args:
        tokenizer: of transformers, the one that the projector was trained with (BERT's for
            InstructBLIP).
        text: any.

    Raises:
        ShapeError: no text.
    """
    return QueryIds(ids=torch.tensor(tokenizer.encode(text)).long())


def query_for(stage: Compressor | Projector, question: str, reader: Any) -> Query | None:
    """What a stage wants to know of a question; ``None`` if it does not ask.

    Args:
        stage: a compressor, a pipeline of them, or a projector.
        question: its text.
        reader: ``TextTower`` or ``WordRows``; for projectors that read ids the tokenizer that they
            were trained with.

    Raises:
        ConfigError: ids are wanted and there is no tokenizer, or features and no reader.
    """
    wanted = _wanted(stage)
    if wanted is None:
        return None
    reads = hasattr(reader, "rows")
    if wanted is QueryIds:
        if reads or not hasattr(reader, "encode"):
            raise ConfigError(
                f"the projector {_name(stage)!r} reads a question as ids of words, got "
                f"{type(reader).__name__}: give the tokenizer that it was trained with"
            )
        return query_ids(reader, question)
    if not reads:
        raise ConfigError(
            f"{_name(stage)!r} compares a question with tokens, got {type(reader).__name__}: give "
            f"a TextTower, or WordRows of the language model"
        )
    # A projector attends to words; a stage ranks tokens by what is meant.
    is_learned = isinstance(stage, Projector)
    return word_features(reader, question) if is_learned else text_features(reader, question)


def bound(stage: Asking, question: str, reader: Any) -> Asking:
    """The stage, asking the question; itself if it does not ask.

    Args:
        stage: see ``query_for``.
        question: see ``query_for``.
        reader: see ``query_for``.

    Raises:
        ConfigError: see ``query_for``.
    """
    query = query_for(stage, question, reader)
    return stage if query is None else cast("Any", stage).bind(query)


def narrow(
    video: VideoTokens, stage: Compressor, question: str, budget: int, reader: Reader
) -> VideoTokens:
    """The tokens that a question needs, of a video that was compressed without one.

    The larger part of the work is done once: a cache keeps some times more tokens than are asked
    with, and each question takes its own of them, without decoding or encoding.

    Args:
        video: cached.
        stage: chooses by a question, or a pipeline in which one does.
        question: its text.
        budget: tokens that may remain.
        reader: ``TextTower``, or ``WordRows`` for tokens in the language model's width.  If a
            tower knows the tokens as its own and they have no ``extras["joint"]``, they get it for
            the time of the choice.

    Raises:
        ConfigError: a stage that asks nothing, so that every question would get the same.
        ShapeError: tokens and texts of different spaces.
        BudgetError: see the stage.
    """
    if _wanted(stage) is None:
        raise ConfigError(
            f"a stage that chooses by the question was wanted, got {_name(stage)!r}, which asks "
            f"nothing: use cdpruner, longvu_query, or partition with weight='query'"
        )
    added = {JOINT} - set(video.extras) - set(video.frame_extras)
    fits = isinstance(reader, TextTower) and video.tokens.shape[1:] == (reader.dim_tokens,)
    seen = cast("TextTower", reader).with_joint(video) if added and fits else video
    found = bound(stage, question, reader)(seen, budget)
    return replace(
        found,
        extras={name: value for name, value in found.extras.items() if name not in added},
        frame_extras={n: value for n, value in found.frame_extras.items() if n not in added},
    )


def choose_frames(
    sampler: AKS,
    path: str | PathLike[str],
    question: str,
    tower: TextTower,
    *,
    candidates: Sampler | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    backend: Backend = "auto",
) -> AKS:
    """The sampler, bound to how well frames of a video match a question.

    Args:
        sampler: ``sampler("aks", num_frames=...)``.
        path: video file.
        question: its text; where it is too long for the tower, a frame counts by the part that
            it matches best.
        tower: compares whole frames with the text.
        candidates: which frames are compared; ``None``: one a second, as the original does.
        start_s: start of the range in seconds.
        end_s: end of the range in seconds.
        backend: what decodes.

    Raises:
        DecodeError: the file does not give its frames.
        ConfigError: the tower cannot compare frames.
    """
    text_QD = tower.rows(question)
    request = DecodeRequest(
        path=fspath(path),
        sampler=candidates or Fps(fps=1.0),
        resize=tower.resize,
        start_s=start_s,
        end_s=end_s,
        backend=backend,
    )
    scores, times_s = [], []
    for chunk in stream_frames(request):
        real = len(chunk) - chunk.num_padded
        scores.append(cosine(tower.frames(chunk)[:real], text_QD).amax(dim=1))
        times_s.append(chunk.pts_s[:real])
    return sampler.bind(torch.cat(scores), torch.cat(times_s))


def _wanted(stage: Compressor | Projector) -> type[Query] | None:
    """The kind of query that a stage reads, if any."""
    if isinstance(stage, Projector):
        return stage.asks
    if isinstance(stage, Pipeline):
        members = [cast("Compressor", member.compressor) for member in stage.stages]
        return next((kind for kind in map(_wanted, members) if kind is not None), None)
    return QueryFeatures if isinstance(stage, QueryAware) and stage.asks else None


def _name(stage: Compressor | Projector) -> str:
    if isinstance(stage, Pipeline):
        return " then ".join(str(member.compressor.name) for member in stage.stages)
    return stage.config.name if isinstance(stage, Projector) else stage.name
