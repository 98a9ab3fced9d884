"""Questions as the model reads them: its own chat template, placeholders, timestamps.

The model's own processor writes the text.  What it would do to pixels is left out: in place of its
video processor stands an object that tells only of what shape the pixels would be, so neither
torchvision nor the frames are needed, and a cached video can be asked about.

Legend: L tokens of a prompt, t frames of a grid (tubelets), k frames in each of them.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidcomp.encode.vlm.tokens import PTS
from vidcomp.errors import ConfigError, MissingExtraError
from vidcomp.llm.stand_in import StandIn, announce, image_settings, video_settings
from vidcomp.types import VideoTokens

__all__ = ["Message", "TextProcessor", "times_of"]

Message = Mapping[str, Any]
"""``{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "..."}]}``."""

_READ = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "token_type_ids",
    "video_grid_thw",
    "second_per_grid_ts",
)


class TextProcessor:
    """Text in and out of a video language model.

    Made by ``load``.
    """

    def __init__(self, processor: Any, config: Any) -> None:  # of transformers
        self._processor = processor
        self._config = config

    @classmethod
    def load(cls, model: str | Path, config: Any) -> "TextProcessor":
        """The tokenizer, the chat template and the processor's settings of a checkpoint.

        Args:
            model: folder or hub id.
            config: of the model.

        Raises:
            ConfigError: files of the tokenizer or the processor cannot be read.
            MissingExtraError: the processor needs a package that is not there.
        """
        from transformers import AutoTokenizer

        kind = _processor_class(config.model_type)
        try:
            tokenizer = AutoTokenizer.from_pretrained(model)
            settings, _ = kind.get_processor_dict(model)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no tokenizer or processor of {config.model_type!r} in {str(model)!r} "
                f"({_first_line(error)}): give a folder with its tokenizer and "
                f"processor_config.json, or a hub id"
            ) from error
        parts = {
            "tokenizer": tokenizer,
            "video_processor": StandIn(video_settings(config, model)),
            "image_processor": StandIn(image_settings(config, model)),
        }
        args = [parts.get(name, StandIn({})) for name in kind.get_attributes()]
        try:
            processor = kind.from_args_and_dict(args, settings)
        except ImportError as error:
            raise MissingExtraError(
                f"the processor of {config.model_type} writes numbers as words, and num2words is "
                f"not installed: pip install 'vidcomp[smolvlm]'"
            ) from error
        return cls(processor, config)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._processor.tokenizer

    def _text(self, messages: Sequence[Message]) -> str:
        """The prompt before placeholders are repeated."""
        if getattr(self._processor, "chat_template", None) is None:
            template = getattr(self.tokenizer, "chat_template", None)
            if template is None:
                raise ConfigError(
                    "the checkpoint has no chat template, and a question cannot be put without "
                    "one: add chat_template.jinja to it"
                )
            self._processor.chat_template = template
        done: str = self._processor.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return done

    def unexpanded(self, messages: str | Sequence[Message], num_videos: int) -> str:
        """The prompt as the chat template writes it: one placeholder a video.

        Args:
            messages: see ``inputs``.
            num_videos: that stand in it.

        Raises:
            ConfigError: see ``inputs``.
        """
        return self._text(_turns(messages, num_videos))

    def inputs(
        self, messages: str | Sequence[Message], videos: Sequence[VideoTokens]
    ) -> dict[str, Tensor]:
        """The full sequence: one placeholder a token of the model's own encoder.

        Args:
            messages: turns of a conversation with ``{"type": "video"}`` where videos stand, or a
                question, which the videos are put before.
            videos: in the order of the prompt; their grids and times tell how many placeholders
                there are and what stands between them.

        Returns:
            [1, L] ``input_ids``, ``attention_mask`` and types of tokens, and the grids that the
            model's position code reads.

        Raises:
            ConfigError: other numbers of videos in the messages, no template, or no times.
        """
        turns = _turns(messages, len(videos))
        text = self._text(_as_images(turns, videos) if self._is_of_images else turns)
        times = [times_of(video) for video in videos]
        shapes = announce(self._config, videos, times, getattr(self._processor, "patch_size", 14))
        processor = copy.copy(self._processor)
        arguments: dict[str, Any] = {}
        if self._is_of_images:
            processor.image_processor = processor.image_processor.telling(shapes)
            num = sum(video.grid.t for video in videos)
            arguments["images"] = [[_dummy(1)[0]] * num] if num else None
        elif videos:
            processor.video_processor = processor.video_processor.telling(shapes)
            arguments["videos"] = [_dummy(max(2, video.grid.t)) for video in videos]
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        try:
            made = _call_of(processor)(
                text=[text],
                add_special_tokens=not begins,
                return_tensors=None,  # InternVL's shapes of videos of many lengths do not stack
                **arguments,
            )
        except (ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"the processor of {self._config.model_type} cannot write this prompt for "
                f"{len(videos)} videos: {_first_line(error)}"
            ) from error
        return {name: torch.as_tensor(made[name]) for name in _READ if name in made}

    @property
    def _is_of_images(self) -> bool:
        return "video_processor" not in type(self._processor).get_attributes()

    def decode(self, ids: Tensor) -> str:
        """The text of an answer, without special tokens."""
        answer: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return answer.strip()


def times_of(video: VideoTokens) -> Tensor:
    """[t, k] float64 presentation times.

    Raises:
        ConfigError: the video does not carry them.
    """
    found = video.frame_extras.get(PTS)
    if found is None:
        raise ConfigError(
            "the prompt needs the times of the frames, got a video without the frame extra "
            f"{PTS!r}: encode it by the language model's own encoder, and keep this extra in a "
            "cache"
        )
    return found.double()


def _processor_class(model_type: str) -> Any:  # a class of transformers
    """The processor's class, which takes any object in place of its parts."""
    import transformers
    from transformers.models.auto import processing_auto

    names: Any = processing_auto
    name = names.PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise ConfigError(
            f"transformers {transformers.__version__} has no processor for {model_type!r}: "
            f"upgrade it"
        )
    kind = getattr(transformers, name)

    def any_part(self: Any, name: str, part: object) -> None:
        del self, name, part

    def written(self: Any) -> str:  # transformers writes every part as JSON
        return type(self).__name__

    members = {"check_argument_for_proper_class": any_part, "__repr__": written}
    return type(name, (kind,), members)


def _call_of(processor: Any) -> Any:
    """InternVL's own call only joins pixels of images and videos, for one length of video."""
    from transformers.processing_utils import ProcessorMixin

    if "InternVL" in type(processor).__name__:
        return ProcessorMixin.__call__.__get__(processor)
    return processor


def _turns(messages: str | Sequence[Message], num_videos: int) -> Sequence[Message]:
    """A conversation in which all videos stand."""
    if isinstance(messages, str):
        content = [*[{"type": "video"}] * num_videos, {"type": "text", "text": messages}]
        return [{"role": "user", "content": content}]
    contents = [message["content"] for message in messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    found = sum(part["type"] == "video" for part in parts)
    if found != num_videos:
        raise ConfigError(
            f"the conversation has places for {found} videos, got {num_videos} videos: put "
            '{"type": "video"} where each stands'
        )
    return messages


def _as_images(messages: Sequence[Message], videos: Sequence[VideoTokens]) -> Sequence[Message]:
    """Each video as the images of its frames, for models that know only images."""
    left = iter(videos)

    def spread(part: Message) -> list[Message]:
        return [{"type": "image"}] * next(left).grid.t if part["type"] == "video" else [part]

    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [one for part in message["content"] for one in spread(part)]}
        for message in messages
    ]


def _dummy(num_frames: int) -> Any:
    """Frames that nobody looks at, [num_frames, 3, 2, 2]."""
    return torch.zeros(1, dtype=torch.uint8).expand(num_frames, 3, 2, 2).numpy()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
