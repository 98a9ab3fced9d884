"""Where texts and tokens are compared: CLIP's and SigLIP's joint space, or a model's own words.

Learning Transferable Visual Models From Natural Language Supervision, 2021,
https://arxiv.org/abs/2103.00020 (CLIP); Sigmoid Loss for Language Image Pre-Training, 2023,
https://arxiv.org/abs/2303.15343 (SigLIP).  Tokens of a vision tower do not lie in the space of its
texts yet: what the tower does to its pooled token is done to every token.

Legend: Q texts or words, N tokens, T t frames, D features of the space, E of the vision tower.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from vidcomp.encode.pixels import Normalize, read_processor, resize_of
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.merge import merge_by_assignment
from vidcomp.functional.resize import Resize
from vidcomp.llm.loading import load_with_tokenizer
from vidcomp.types import Frames, VideoTokens

__all__ = ["JOINT", "Reader", "TextTower", "WordRows"]

JOINT = "joint"
"""Extra [N, D] and frame extra [t, D]: tokens and frames in the space of a tower's texts."""

_CLIPS = ("clip", "metaclip_2")
_SIGLIPS = ("siglip", "siglip2")


class Reader(Protocol):
    """What turns texts into rows that tokens are compared with."""

    def rows(self, text: str) -> Tensor:
        """[Q, D] of the text, or of its parts where it is too long."""

    def words(self, text: str) -> Tensor:
        """[Q, D] of each of its words (pieces of words)."""


class TextTower:
    """A CLIP or SigLIP model of transformers: texts, frames and tokens in one space.

    Args:
        model: ``CLIPModel``, ``SiglipModel`` ...
        tokenizer: its own.
        processor: settings of its own image processor, for ``frames``.

    Raises:
        ConfigError: a model without such a space.
    """

    def __init__(
        self, model: Any, tokenizer: Any, processor: Mapping[str, Any] | None = None
    ) -> None:
        kind = str(model.config.model_type)
        if kind not in (*_CLIPS, *_SIGLIPS):
            raise ConfigError(
                f"texts are compared with tokens in the space of {', '.join((*_CLIPS, *_SIGLIPS))}"
                f", got {kind}: give a checkpoint of one of them, with both its towers"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._kind = kind
        self._processor = processor

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> Self:
        """A checkpoint with its tokenizer and its processor's settings.

        Args:
            model: a folder, or an id of the Hugging Face hub.
            device: where it runs.
            dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
            revision: of the hub.

        Raises:
            ConfigError: it cannot be found or read, or is no such model.
        """
        loaded, tokenizer = load_with_tokenizer(
            "AutoModel",
            str(model),
            what="CLIP or SigLIP",
            device=device,
            dtype=dtype,
            revision=revision,
        )
        try:
            processor = read_processor(find_checkpoint(str(model), revision))
        except ConfigError:
            processor = None  # texts need none; frames say so when they are asked for
        return cls(loaded, tokenizer, processor)

    @property
    def dim(self) -> int:
        """Features of the space."""
        if self._kind in _CLIPS:
            return int(self.model.config.projection_dim)
        return int(self.model.config.text_config.projection_size)

    @property
    def dim_tokens(self) -> int:
        """Features of its vision tower's tokens."""
        return int(self.model.config.vision_config.hidden_size)

    @torch.no_grad()
    def rows(self, text: str) -> Tensor:
        """[Q, D] float32: one row, or one for each part of a text that is too long for the tower.

        Raises:
            ConfigError: no text, or a word that is too long by itself.
        """
        inputs = self._inputs(self._parts(text))
        out = self.model.get_text_features(**inputs)
        return torch.as_tensor(getattr(out, "pooler_output", out)).float()

    @torch.no_grad()
    def words(self, text: str) -> Tensor:
        """[Q, D] float32 of the pieces of words, as the tower reads them in their sentence.

        The tower is trained to make the whole text alike to pictures, not its words.

        Raises:
            ConfigError: see ``rows``.
        """
        found = []
        for part in self._parts(text):
            inputs = self._inputs([part])
            (hidden_LE,) = self.model.text_model(**inputs).last_hidden_state
            own = self.tokenizer.encode(part, add_special_tokens=False)
            ids = inputs["input_ids"][0].tolist()
            start = next(i for i in range(len(ids)) if ids[i : i + len(own)] == own)
            head = (
                self.model.text_projection if self._kind in _CLIPS else self.model.text_model.head
            )
            found.append(head(hidden_LE[start : start + len(own)]).float())
        return torch.cat(found)

    @torch.no_grad()
    def joint(self, tokens_NE: Tensor) -> Tensor:
        """[N, D] float32: tokens of its vision tower in the space of its texts.

        Each is treated as if it were all there is to a picture.

        Args:
            tokens_NE: its last hidden state, as the encoder ``hf`` gives it without ``layer``.

        Raises:
            ShapeError: tokens of another width.
        """
        shape = list(tokens_NE.shape)
        if len(shape) != 2 or shape[1] != self.dim_tokens or not tokens_NE.is_floating_point():
            raise ShapeError(
                f"texts of {self._kind} are compared with tokens of its own vision tower, "
                f"{self.dim_tokens} features wide, got {shape} {tokens_NE.dtype}, which are of "
                f"another encoder: encode the video by the encoder 'hf' with this model, or keep "
                f"extras[{JOINT!r}] of it beside the tokens"
            )
        vision = self.model.vision_model
        like = next(vision.parameters())
        parts = torch.split(tokens_NE.to(like), _ROWS)
        if self._kind in _CLIPS:
            rows = [self.model.visual_projection(vision.post_layernorm(part)) for part in parts]
        else:
            rows = [vision.head(part[:, None]) for part in parts]
        return torch.cat(rows).float()

    @torch.no_grad()
    def with_joint(self, video: VideoTokens) -> VideoTokens:
        """The video with ``extras["joint"]`` and ``frame_extras["joint"]``.

        Worth doing before it is compressed and stored: the extra is merged with the tokens, and
        questions need no vision tower later.  Frames of SigLIP are what its head makes of their
        tokens (of all of them, the tower's own feature), those of CLIP means of their tokens, as
        the token that CLIP itself takes is not there; frames without tokens are zero.

        Raises:
            ShapeError: tokens of another encoder.
        """
        device = video.tokens.device
        joint_ND = self.joint(video.tokens).to(device)
        frame_N = frame_numbers(video)
        if self._kind in _CLIPS:
            ones_N = torch.ones_like(video.mass)
            frames_TD, _ = merge_by_assignment(joint_ND, ones_N, frame_N, video.grid.t)
        else:
            frames_TD = joint_ND.new_zeros(video.grid.t, self.dim)
            like = next(self.model.vision_model.parameters())
            for frame in torch.unique(frame_N):
                rows_1ND = video.tokens[frame_N == frame][None].to(like)
                frames_TD[frame] = self.model.vision_model.head(rows_1ND)[0].to(joint_ND)
        return replace(
            video,
            extras={**video.extras, JOINT: joint_ND},
            frame_extras={**video.frame_extras, JOINT: frames_TD},
        )

    @property
    def resize(self) -> Resize:
        """The size that ``frames`` takes, for whoever decodes them.

        Raises:
            ConfigError: the checkpoint came without its processor's settings, or takes pictures
                of many sizes.
        """
        return resize_of(self._settings())

    @torch.no_grad()
    def frames(self, frames: Frames) -> Tensor:
        """[T, D] float32: frames as the tower itself compares them with texts.

        Args:
            frames: read with ``resize``.

        Raises:
            ConfigError: see ``resize``.
            ShapeError: frames of another size.
        """
        normalize = Normalize.of(self._settings(), self.model.device)
        side = int(self.model.config.vision_config.image_size)
        if tuple(frames.data.shape[2:]) != (side, side):
            raise ShapeError(
                f"{self._kind} compares frames of {side} x {side} pixels with texts, got "
                f"{list(frames.data.shape[2:])}: read them with resize=tower.resize"
            )
        rows = []
        for part in torch.split(frames.data, _FRAMES):
            pixels = normalize(part.to(self.model.device)).to(self.model.dtype)
            out = self.model.get_image_features(pixel_values=pixels)
            rows.append(torch.as_tensor(getattr(out, "pooler_output", out)).float())
        return torch.cat(rows)

    def _settings(self) -> Mapping[str, Any]:
        if self._processor is None or self._kind == "siglip2":
            why = "came without preprocessor_config.json"
            if self._kind == "siglip2":
                why = "takes pictures of many sizes"
            raise ConfigError(
                f"this {self._kind} {why}, so whole frames cannot be compared: encode them by the "
                f"encoder 'hf' and use with_joint, or give another checkpoint"
            )
        return self._processor

    @property
    def _most(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    def _parts(self, text: str) -> list[str]:
        """The text, cut between words where it is longer than the tower reads."""
        if not text.strip():
            raise ConfigError("a question has words, got an empty text: give one")
        if self._fits(text):
            return [text]
        parts, some = [], ""
        for word in text.split():
            longer = f"{some} {word}".strip()
            if self._fits(longer):
                some = longer
                continue
            if some:
                parts.append(some)
            some = word
            if not self._fits(word):
                raise ConfigError(
                    f"{self._kind} reads {self._most} pieces of words at most, and the word "
                    f"{word[:20]!r}... has more: shorten it"
                )
        return [*parts, some]

    def _fits(self, text: str) -> bool:
        # verbose=False: transformers warns of lengths that are only tried.
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self._most

    def _inputs(self, texts: list[str]) -> dict[str, Tensor]:
        # SigLIP is trained without a mask, and pools what stands at the last place of the padding.
        clip = self._kind in _CLIPS
        made = self.tokenizer(
            texts,
            padding=True if clip else "max_length",
            max_length=None if clip else self._most,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask") if clip else ("input_ids",)
        return {name: made[name].to(self.model.device) for name in names}


_ROWS = 1 << 14
_FRAMES = 32


class WordRows:
    """A language model's own embeddings of words, for tokens in its width.

    As "LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding" (2024)
    compares a question with a video: nothing but the language model is needed.

    Args:
        model: of transformers, with ``get_input_embeddings``.
        tokenizer: its own.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._words = model.get_input_embeddings()
        self.tokenizer = tokenizer

    @torch.no_grad()
    def rows(self, text: str) -> Tensor:
        """[Q, D] float32: a row for each piece of a word.

        Raises:
            ConfigError: no text.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise ConfigError("a question has words, got an empty text: give one")
        found: Tensor = self._words(torch.tensor(ids, device=self._words.weight.device))
        return found.float()

    def words(self, text: str) -> Tensor:
        """``rows``: there are no others."""
        return self.rows(text)
