"""Questions to models that know no videos: their own chat template, cut where videos stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.llm.text import Message

__all__ = ["USER_ASSISTANT", "Chat", "Template"]

USER_ASSISTANT = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'system' %}{{ message['content'] }} \
{% elif message['role'] == 'user' %}USER: {{ message['content'] }} \
{% else %}ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""
"""A template for models that come without one, the one that LLaVA-1.5 was trained with."""

_SIGN = "\ue000"
"""A private character, which stands for a video until the text is cut."""


@dataclass(frozen=True, slots=True)
class Template:
    """How a conversation is written."""

    jinja: str | None = None
    """Given ``messages`` whose contents are texts; ``None``: the tokenizer's own."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What else the template reads, as ``{"enable_thinking": False}``."""


class Chat:
    """Text in and out of a plain language model.

    Args:
        tokenizer: of transformers.
        template: Jinja, or a ``Template``; ``None``: the tokenizer's own.
        video: text that is put where a video stands, for models that have a sign for it.
    """

    def __init__(
        self, tokenizer: Any, template: str | Template | None = None, *, video: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template if isinstance(template, Template) else Template(template)
        self._video = video

    def pieces(
        self, messages: str | Sequence[Message], num_videos: int, *, answers: bool = True
    ) -> list[str]:
        """The prompt as the template writes it, cut into ``num_videos + 1`` texts.

        Args:
            messages: a question, which the videos are put before, or turns of a conversation with
                ``{"type": "video"}`` where videos stand; a line break follows each.
            num_videos: that stand in it.
            answers: whether the assistant speaks next; False: the conversation is complete.

        Raises:
            ConfigError: other numbers of videos, parts that are neither text nor video, no
                template, one that refuses the conversation, or arguments that it does not read.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": f"{_SIGN}\n" * num_videos + messages}]
        turns = [{**turn, "content": _as_text(turn["content"])} for turn in messages]
        told = sum(turn["content"].count(_SIGN) for turn in turns)
        if told != num_videos:
            raise ConfigError(
                f"the conversation has places for {told} videos, got {num_videos} videos: put "
                '{"type": "video"} where each stands'
            )
        text = self._written(turns, answers=answers)
        found = text.split(_SIGN)
        if len(found) != num_videos + 1:
            raise ConfigError(
                f"the chat template shows {len(found) - 1} of {num_videos} videos: it leaves out "
                f"or repeats turns, so give another template"
            )
        # What stands for a video belongs to the text before it.
        return [piece + self._video for piece in found[:-1]] + found[-1:]

    def ids(self, text: str) -> Tensor:
        """[n] int64; special tokens only where the text has them."""
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False)).long()

    def decode(self, ids: Tensor) -> str:
        """The text of an answer, without special tokens."""
        answer: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return answer.strip()

    def _written(self, turns: Sequence[Message], *, answers: bool) -> str:
        from jinja2 import TemplateError

        template = self.template.jinja or getattr(self.tokenizer, "chat_template", None)
        if template is None:
            raise ConfigError(
                "the tokenizer has no chat template, and a question cannot be put without one: "
                "give template=, for instance vidcomp.llm.chat.USER_ASSISTANT"
            )
        unread = [name for name in self.template.arguments if name not in template]
        if unread:
            raise ConfigError(
                f"the chat template does not read {', '.join(unread)}: leave out such arguments"
            )
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(turns),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answers,
                **self.template.arguments,
            )
        except TemplateError as error:
            raise ConfigError(
                f"the chat template refuses the conversation ({error}): change its turns, or give "
                f"another template"
            ) from error
        return text


def _as_text(content: Any) -> str:
    """Parts of a message as one text, with a sign for every video."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        if part["type"] not in ("video", "text"):
            raise ConfigError(
                f"a plain language model reads text and videos, got a part of the type "
                f"{part['type']!r}: leave it out, or encode it as a video of one frame"
            )
        texts.append(f"{_SIGN}\n" if part["type"] == "video" else str(part["text"]))
    return "".join(texts)
