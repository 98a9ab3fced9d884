"""Models whose layers look at a video beside the text: Llama 3.2 Vision (mllama) and Idefics.

Flamingo: a Visual Language Model for Few-Shot Learning, 2022, https://arxiv.org/abs/2204.14198:
some layers of the language model attend to the tokens of the videos before, of which there may be
any number; none of them takes a place in the context.  In the text one sign stands for a video.

A token of the text sees all videos whose signs came before it.  (Idefics' own processor lets it see
the last one only, Llama's the last ones in a row.)

Legend: L tokens of the text, M tokens of all videos of a prompt, D features, B prompts, V the
vocabulary.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.asker import Asked, Asker, check_rows
from vidcomp.llm.chat import Chat, Template
from vidcomp.llm.loading import load_with_tokenizer
from vidcomp.llm.session import Answer
from vidcomp.llm.text import Message
from vidcomp.types import VideoTokens

if TYPE_CHECKING:
    from vidcomp.projectors.base import Projector

__all__ = ["CrossAttentionLLM", "CrossPrompt", "CrossSession"]


class _Sign(NamedTuple):
    """What stands for a video in the text."""

    text: str
    token: str
    """From which on it is seen."""


_SIGNS = {
    "mllama": _Sign("<|image|>", "<|image|>"),
    "idefics": _Sign(
        "<fake_token_around_image><image><fake_token_around_image>",
        "<image>",
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class CrossPrompt:
    """Text, and what each token of it sees."""

    ids: Tensor
    """[L] int64."""
    rows: Tensor
    """[M, D] tokens of all videos, in their order."""
    seen: Tensor
    """[L] int64: how many of them each token of the text sees."""

    @property
    def num_prompt(self) -> int:
        """Tokens of the text: the videos take no place in the context."""
        return len(self.ids)

    @property
    def num_video(self) -> int:
        """Tokens of videos, which are read beside the text."""
        return len(self.rows)


class CrossAttentionLLM(Asker[CrossPrompt]):
    """A language model whose cross-attention reads videos.

    Args:
        model: ``MllamaForConditionalGeneration`` or ``IdeficsForVisionText2Text``; its own encoder
            is not used.
        tokenizer: its own.
        projector: from the encoder's tokens to the width that cross-attention reads (``dim``), or
            ``None``.
        template: see ``Chat``.

    Raises:
        ConfigError: another model, a tokenizer without its sign for pictures, or a projector of
            another width.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        projector: "Projector | None" = None,
        *,
        template: str | Template | None = None,
    ) -> None:
        kind = str(model.config.model_type)
        if kind not in _SIGNS:
            raise ConfigError(
                f"models that read videos by cross-attention are {', '.join(sorted(_SIGNS))}, got "
                f"{kind}: use PlainLLM or VideoLLM"
            )
        sign = _SIGNS[kind]
        super().__init__(model, Chat(tokenizer, template, video=sign.text))
        self._kind = kind
        self._sign_id = tokenizer.convert_tokens_to_ids(sign.token)
        if self._sign_id is None or self._sign_id == tokenizer.unk_token_id:
            raise ConfigError(
                f"{kind} has {sign.token!r} in its text where a video stands, and this tokenizer "
                f"does not know it: give the model's own"
            )
        self.projector = projector
        check_rows(projector, self.dim, f"the cross-attention of {kind}")

    @classmethod
    def load(
        cls,
        model: str | Path,
        projector: "Projector | None" = None,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
        template: str | Template | None = None,
    ) -> Self:
        """A checkpoint with its tokenizer.

        Args:
            model: a folder, or an id of the Hugging Face hub.
            projector: see the class; it is moved to ``device`` and keeps its type.
            device: where both run.
            dtype: of the model: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            revision: of the hub.
            template: see the class.

        Raises:
            ConfigError: it cannot be found or read, see also the class.
        """
        loaded, tokenizer = load_with_tokenizer(
            "AutoModelForImageTextToText",
            str(model),
            what="language model",
            device=device,
            dtype=dtype,
            revision=revision,
        )
        moved = None if projector is None else projector.to(device)
        return cls(loaded, tokenizer, moved, template=template)

    @property
    def dim(self) -> int:
        """Features of the rows that cross-attention reads."""
        config = self.model.config
        if self._kind == "idefics":
            return int(config.vision_config.embed_dim)
        return int(config.text_config.hidden_size)

    def project(self, videos: Sequence[VideoTokens]) -> list[VideoTokens]:
        """Videos in the width that cross-attention reads, gradients through the projector.

        Raises:
            ShapeError: tokens of another width.
        """
        if self.projector is not None:
            like = next(self.projector.parameters(), self.model.lm_head.weight)
            videos = [self.projector(video.to(like.device)) for video in videos]
        for video in videos:
            if list(video.tokens.shape[1:]) != [self.dim]:
                raise ShapeError(
                    f"the cross-attention of {self._kind} reads rows of {self.dim} features, got "
                    f"tokens {list(video.tokens.shape)}: give a projector"
                )
        return list(videos)

    def prompt(
        self, messages: str | Sequence[Message], videos: Sequence[VideoTokens]
    ) -> CrossPrompt:
        """See ``Asker.prompt``.

        Raises:
            ConfigError: a text with the sign of a video that is not there.
        """
        projected = self.project(videos)
        ids = self.chat.ids("".join(self.chat.pieces(messages, len(projected))))
        place_L = (ids == self._sign_id).cumsum(0)
        if int(place_L[-1]) != len(projected):
            raise ConfigError(
                f"the text has {int(place_L[-1])} signs of videos for {len(projected)} videos: "
                f"take {_SIGNS[self._kind].token!r} out of the conversation"
            )
        ends = torch.tensor([0, *(len(video) for video in projected)]).cumsum(0)
        like = self.model.lm_head.weight
        rows = [video.tokens.to(like) for video in projected]
        rows_MD = torch.cat(rows) if rows else like.new_zeros(0, self.dim)
        return CrossPrompt(ids=ids, rows=rows_MD, seen=ends[place_L])

    def inputs(self, prompts: Sequence[CrossPrompt]) -> dict[str, Tensor]:
        """See ``Asker.inputs``.

        Returns:
            ``input_ids``, ``attention_mask``, ``position_ids`` [B, L], the rows and the mask of
            cross-attention by the model's own names.
        """
        most = max(len(prompt.ids) for prompt in prompts)
        pairs = [(prompt, most - len(prompt.ids)) for prompt in prompts]
        mask_BL = torch.stack([pad(torch.ones_like(one.ids), (gap, 0)) for one, gap in pairs])
        inputs = {
            "input_ids": torch.stack(
                [pad(one.ids, (gap, 0), value=self.pad_id) for one, gap in pairs]
            ),
            "attention_mask": mask_BL,
            "position_ids": (mask_BL.cumsum(-1) - 1).clamp(min=0),
        }
        rows_BMD = pad_sequence([one.rows for one in prompts], batch_first=True)
        seen_BL = torch.stack([pad(one.seen, (gap, 0)) for one, gap in pairs])
        if self._kind == "idefics" and not rows_BMD.shape[1]:
            rows_BMD = rows_BMD.new_zeros(len(prompts), 1, self.dim)  # nobody sees it
        sees_BLM = (torch.arange(rows_BMD.shape[1]) < seen_BL[..., None]).long()
        inputs |= self._beside(rows_BMD, sees_BLM)
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def _beside(self, rows_BMD: Tensor, sees_BLM: Tensor) -> dict[str, Tensor]:
        """The arguments of cross-attention; each token is a picture of its own."""
        if self._kind == "mllama":
            if not rows_BMD.shape[1]:
                return {}
            # Without a mask torch's fused attention would be causal, in text and video alike.
            return {
                "cross_attention_states": rows_BMD,
                "cross_attention_mask": sees_BLM[..., None],
            }
        resampled = self.model.config.use_resampler
        name = "perceiver_embeddings" if resampled else "image_encoder_embeddings"
        return {name: rows_BMD[:, :, None], "image_attention_mask": sees_BLM}

    def run(self, inputs: Mapping[str, Any], **more: Any) -> Any:  # a ModelOutput
        """The model's own output for ``inputs``."""
        with self._one_by_one():
            return self.model(**inputs, **more)

    @torch.no_grad()
    def next_logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """See ``Asker.next_logits``."""
        return torch.as_tensor(self.run(inputs, logits_to_keep=1).logits[:, -1])

    def ask_all(
        self,
        questions: Sequence[Asked],
        **settings: Any,  # of transformers' GenerationConfig
    ) -> list[Answer]:
        """See ``Asker.ask_all``.

        Llama answers one by one where videos have other numbers of tokens: text before them sees
        the mean of all there are, those that fill up included.
        """
        sizes = {sum(len(video) for video in videos) for _, videos in questions}
        if self._kind == "mllama" and len(sizes) > 1:
            each = [super(CrossAttentionLLM, self).ask_all([one], **settings) for one in questions]
            return [answer for answers in each for answer in answers]
        return super().ask_all(questions, **settings)

    @torch.no_grad()
    def say(self, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Tensor]:
        """See ``Asker.say``."""
        with self._one_by_one():
            if "cross_attention_states" in inputs:
                inputs = self._read(inputs, settings)
            return super().say(inputs, settings)

    def session(self, videos: Sequence[VideoTokens]) -> "CrossSession":
        """The videos, projected once for many questions."""
        return CrossSession(self, videos)

    def _read(self, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the last token read ahead: ``generate`` would hand the video to every step, and
        Llama's layers would keep it once more each time.
        """
        ahead = {
            name: value if name == "cross_attention_states" else value[:, :-1]
            for name, value in inputs.items()
        }
        cache = self.model(**ahead, use_cache=True, logits_to_keep=1).past_key_values
        several = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
        if several > 1:
            cache.batch_repeat_interleave(several)
        rest = {name: value for name, value in inputs.items() if name != "cross_attention_states"}
        return {**rest, "past_key_values": cache}

    @contextmanager
    def _one_by_one(self) -> Iterator[None]:
        """Llama's masks are of pictures of ``num_patches`` tokens each: here of one."""
        if self._kind != "mllama":
            yield
            return
        tower = self.model.model.vision_model
        with _LOCK:
            users, own = _IN_USE.get(id(tower), (0, tower.num_patches))
            _IN_USE[id(tower)] = (users + 1, own)
            tower.num_patches = 1
        try:
            yield
        finally:
            with _LOCK:
                users, own = _IN_USE.pop(id(tower))
                if users > 1:
                    _IN_USE[id(tower)] = (users - 1, own)
                else:
                    tower.num_patches = own


_LOCK = threading.Lock()
_IN_USE: dict[int, tuple[int, int]] = {}
"""Vision towers whose number of patches is set to 1: by how many, and what it was."""


class CrossSession:
    """Videos for many questions; see ``CrossAttentionLLM.ask`` for the methods.

    Questions are single turns, put behind the videos.

    Args:
        llm: that reads them.
        videos: in the order of the prompt.
    """

    @torch.no_grad()
    def __init__(self, llm: CrossAttentionLLM, videos: Sequence[VideoTokens]) -> None:
        # What is projected before is in the width of the model: a projector has done its work.
        self._llm = CrossAttentionLLM(llm.model, llm.tokenizer, template=llm.chat.template)
        self.videos = llm.project(videos)

    def ask(self, question: str, **settings: Any) -> Answer:  # of transformers' GenerationConfig
        """The answer to one question."""
        return self._llm.ask(question, self.videos, **settings)

    def ask_all(self, questions: Sequence[str], **settings: Any) -> list[Answer]:
        """The answers to several questions, which the model reads together."""
        return self._llm.ask_all([(one, self.videos) for one in questions], **settings)

    def stream(self, question: str, **settings: Any) -> Iterator[str]:
        """The answer piece by piece; closing the iterator stops the model."""
        return self._llm.stream(question, self.videos, **settings)

    def option_scores(self, question: str, options: Sequence[str]) -> Tensor:
        """[options] log-probabilities, see ``CrossAttentionLLM.option_scores``."""
        return self._llm.option_scores(question, self.videos, options)
