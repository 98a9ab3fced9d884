"""Any causal language model with a projector before it: tokens of videos among those of the text.

As in Visual Instruction Tuning, 2023, https://arxiv.org/abs/2304.08485: the projector's rows stand
in the prompt as if they were embeddings of words (``inputs_embeds``).  They have no places of their
own in the vocabulary, and positions count them one by one.

Legend: L rows of a prompt, N tokens of a video, D features, B prompts, V the vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.geometry import frame_numbers
from vidcomp.llm.asker import Asker, check_rows
from vidcomp.llm.chat import Chat, Template
from vidcomp.llm.loading import load_with_tokenizer
from vidcomp.llm.text import Message, times_of
from vidcomp.types import Query, TokenBatch, VideoTokens

if TYPE_CHECKING:
    from vidcomp.llm.plain_session import PlainSession
    from vidcomp.projectors.base import Projector

__all__ = ["PlainLLM", "PlainPrompt", "question_of", "timed_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class PlainPrompt:
    """A prompt in parts: [n] int64 ids of text, [n, D] rows of videos."""

    parts: tuple[Tensor, ...]

    @property
    def num_prompt(self) -> int:
        """Rows that the model reads."""
        return sum(len(part) for part in self.parts)

    @property
    def num_video(self) -> int:
        """Those of them that are of videos."""
        return sum(len(part) for part in self.parts if part.is_floating_point())

    def ids(self, fill: int) -> Tensor:
        """[L] int64, ``fill`` where rows of videos stand."""
        return torch.cat(
            [
                torch.full((len(part),), fill) if part.is_floating_point() else part
                for part in self.parts
            ]
        )


class PlainLLM(Asker[PlainPrompt]):
    """A causal language model that reads videos through a projector.

    Args:
        model: by ``AutoModelForCausalLM``.
        tokenizer: its own.
        projector: from the encoder's tokens to the model's width, trained or about to be;
            ``None``: videos come in the model's width.
        timestamps: write the time before the tokens of each frame, as ``"12.3s: "``.
        template: see ``Chat``.
        ask_by: the query that a projector reads beside a video, of the question's text (see
            ``vidcomp.llm.queries``).

    Raises:
        ConfigError: a model that needs ids beside embeddings, or a projector of another width.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        projector: "Projector | None" = None,
        *,
        timestamps: bool = False,
        template: str | Template | None = None,
        ask_by: Callable[[str], Query] | None = None,
    ) -> None:
        super().__init__(model, Chat(tokenizer, template))
        self.projector = projector
        self.timestamps = timestamps
        self._ask_by = ask_by
        _check_model(model)
        check_rows(projector, self.dim, "the language model")

    @classmethod
    def load(
        cls,
        model: str | Path,
        projector: "Projector | None" = None,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
        **settings: Any,  # of the class
    ) -> Self:
        """A checkpoint with its tokenizer.

        Args:
            model: a folder, or an id of the Hugging Face hub.
            projector: see the class; it is moved to ``device`` and keeps its type.
            device: where both run.
            dtype: of the model: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            revision: of the hub.
            settings: ``timestamps``, ``template``, ``ask_by``.

        Raises:
            ConfigError: it cannot be found or read, see also the class.
        """
        loaded, tokenizer = load_with_tokenizer(
            "AutoModelForCausalLM",
            str(model),
            what="language model",
            device=device,
            dtype=dtype,
            revision=revision,
        )
        moved = None if projector is None else projector.to(device)
        return cls(loaded, tokenizer, moved, **settings)

    @property
    def dim(self) -> int:
        """Features of the model's embeddings."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    def project(
        self, videos: Sequence[VideoTokens], question: str | None = None
    ) -> list[VideoTokens]:
        """Videos in the model's width, gradients through the projector.

        Args:
            videos: of the encoder that the projector belongs to; without one in that width.
            question: for projectors that read one.

        Raises:
            ShapeError: tokens of another width.
            ConfigError: the projector reads a question, and there is no way to give it one.
        """
        return self.project_all(videos, [question] * len(videos))

    def project_all(
        self, videos: Sequence[VideoTokens], questions: Sequence[str | None]
    ) -> list[VideoTokens]:
        """``project`` in one pass, with a question for each video."""
        if self.projector is None:
            for video in videos:
                self._check_width(video)
            return list(videos)
        device = next((p.device for p in self.projector.parameters()), self.model.device)
        moved = [video.to(device) for video in videos]
        queries = [self._query(question) for question in questions]
        if len(moved) < 2:
            pairs = zip(moved, queries, strict=True)
            return [self.projector(video, query=query) for video, query in pairs]
        asked = [query for query in queries if query is not None]
        return list(self.projector(TokenBatch.pack(moved), query=asked or None))

    def prompt(
        self, messages: str | Sequence[Message], videos: Sequence[VideoTokens]
    ) -> PlainPrompt:
        """See ``Asker.prompt``.  With ``mixed_prompt`` its parts are a prompt of vLLM."""
        texts = self.chat.pieces(messages, len(videos))
        return self.joined(texts, self.project(videos, question_of(messages)))

    def joined(self, texts: Sequence[str], projected: Sequence[VideoTokens]) -> PlainPrompt:
        """Texts with videos between them.

        Args:
            texts: one more than there are videos.
            projected: in the model's width.
        """
        parts, text = [], texts[0]
        for video, after in zip(projected, texts[1:], strict=True):
            for time, rows in timed_rows(video) if self.timestamps else [("", video.tokens)]:
                parts += [self.chat.ids(text + time), rows]
                text = ""
            text += after
        parts.append(self.chat.ids(text))
        return PlainPrompt(tuple(part for part in parts if len(part)))

    def embedded(self, prompt: PlainPrompt) -> Tensor:
        """[L, D] rows as the model's first layer reads them."""
        words = self.model.get_input_embeddings()
        like = words.weight
        return torch.cat(
            [
                part.to(like) if part.is_floating_point() else words(part.to(like.device))
                for part in prompt.parts
            ]
        )

    def inputs(self, prompts: Sequence[PlainPrompt]) -> dict[str, Tensor]:
        """See ``Asker.inputs``.

        Returns:
            ``input_ids``, ``attention_mask``, ``position_ids`` [B, L] and ``inputs_embeds``
            [B, L, D]; ``generate`` takes them all, the model itself all but the ids.
        """
        most = max(prompt.num_prompt for prompt in prompts)
        gaps = [most - prompt.num_prompt for prompt in prompts]
        pairs = list(zip(prompts, gaps, strict=True))
        mask = torch.stack([pad(torch.ones(most - gap).long(), (gap, 0)) for gap in gaps])
        inputs = {
            "input_ids": torch.stack(
                [pad(one.ids(self.pad_id), (gap, 0), value=self.pad_id) for one, gap in pairs]
            ),
            "inputs_embeds": torch.stack(
                [pad(self.embedded(one), (0, 0, gap, 0)) for one, gap in pairs]
            ),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        }
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def run(self, inputs: Mapping[str, Any], **more: Any) -> Any:  # a ModelOutput
        """The model's own output for ``inputs``."""
        inputs = {name: value for name, value in inputs.items() if name != "input_ids"}
        return self.model(**inputs, **more)

    @torch.no_grad()
    def next_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """See ``Asker.next_logits``."""
        return torch.as_tensor(self.run(inputs, logits_to_keep=1).logits[:, -1])

    def session(self, videos: Sequence[VideoTokens]) -> "PlainSession":
        """The videos, read once for many questions.

        Raises:
            ConfigError: the projector reads the question, so nothing can be read before it.
        """
        from vidcomp.llm.plain_session import PlainSession

        return PlainSession(self, videos)

    @torch.no_grad()
    def verify(self) -> float:
        """Read a text once as ids and once as embeddings: the model must see no difference.

        Returns:
            The largest difference of logits, 0 in every version known to work.

        Raises:
            ConfigError: it answers otherwise, as a model that scales embeddings later would.
        """
        most = self.model.get_input_embeddings().weight.shape[0]
        ids = (torch.arange(16) * 7 + 3) % most
        inputs = self.inputs([PlainPrompt((ids,))])
        found = self.run(inputs).logits.float()
        del inputs["inputs_embeds"]
        expected = self.model(**inputs).logits.float()
        worst = float((found - expected).abs().max())
        if worst > 1e-5 * max(1.0, float(expected.abs().max())):
            raise ConfigError(
                f"{type(self.model).__name__} answers otherwise to its own embeddings, by "
                f"{worst:.3g}: it does more with ids than look them up, so use another model"
            )
        return worst

    def _query(self, question: str | None) -> Query | None:
        if self.projector is None or not self.projector.lacks_query:
            return None
        if self._ask_by is None or question is None:
            raise ConfigError(
                f"the projector {self.projector.config.name!r} reads a question beside the video: "
                f"give ask_by=, which makes it of the question's text, and ask one question"
            )
        return self._ask_by(question)

    def _check_width(self, video: VideoTokens) -> None:
        shape = list(video.tokens.shape)
        if shape[1:] != [self.dim]:
            raise ShapeError(
                f"the language model reads rows of {self.dim} features, got tokens {shape}: give "
                f"a projector, or project the video before"
            )


def timed_rows(video: VideoTokens) -> list[tuple[str, Tensor]]:
    """The tokens of each frame with its time, as ``"12.3s: "``.

    A token that was merged over frames counts in the one nearest to its centre.  Times are those
    of the frame extra ``pts_s``, else of where the first token of a frame starts.

    Raises:
        ConfigError: tokens that do not come in the order of time.
    """
    if not len(video):
        return []
    frame_N = frame_numbers(video).cpu()
    if bool((frame_N.diff() < 0).any()):
        raise ConfigError(
            "times are written between frames, got tokens that are not in the order of time, as "
            "latents are: leave timestamps out"
        )
    sizes = torch.unique_consecutive(frame_N, return_counts=True)[1].tolist()
    start_N = video.spans[:, 0].double().cpu()
    if PTS in video.frame_extras:
        start_N = times_of(video).mean(dim=1).cpu()[frame_N.clamp(0, video.grid.t - 1)]
    parts = []
    latest = 0.0
    frames = zip(torch.split(video.tokens, sizes), torch.split(start_N, sizes), strict=True)
    for rows, starts in frames:
        latest = max(latest, float(starts.min()))
        parts.append((f"{latest:.1f}s: ", rows))
    return parts


def question_of(messages: str | Sequence[Message]) -> str | None:
    """The text of the last turn of the user."""
    if isinstance(messages, str):
        return messages
    for turn in reversed(messages):
        if turn["role"] == "user":
            content = turn["content"]
            if isinstance(content, str):
                return content
            return "".join(part["text"] for part in content if part["type"] == "text")
    return None


def _check_model(model: Any) -> None:
    text = model.config.get_text_config(decoder=True)
    if getattr(text, "hidden_size_per_layer_input", 0):
        raise ConfigError(
            f"{type(model).__name__} reads ids of words in every layer, which rows of a video do "
            f"not have: use another language model, or its own video path by VideoLLM"
        )
