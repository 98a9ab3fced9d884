"""Requests as OpenAI's clients write them, with a video's budget and method beside them.

What cannot be done is refused by name; fields that would change nothing are read over.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .limits import Limits, RefusedError

__all__ = [
    "ChatRequest",
    "Part",
    "StreamOptions",
    "TextPart",
    "Turn",
    "VideoPart",
    "VideoUrl",
    "parse_chat",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VideoUrl(_Strict):
    """Which video."""

    url: str = Field(min_length=1, max_length=4096)
    """Id of an upload, path in the server's folder, or a link where the server may fetch."""


class TextPart(_Strict):
    """Words."""

    type: Literal["text"]
    text: str


class VideoPart(_Strict):
    """A video."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | VideoPart, Field(discriminator="type")]


class Turn(_Strict):
    """What one side said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def parts(self) -> Sequence[TextPart | VideoPart]:
        """Its content as parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content


class StreamOptions(_Strict):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A question."""

    model: str
    messages: list[Turn] = Field(min_length=1, max_length=256)
    budget: int | str | None = None
    """Tokens of the language model for each video, as ``196`` or ``"10%"``."""
    method: str | None = Field(None, max_length=200)
    """The compressor, with settings after colons; ``none`` for all tokens."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    logprobs: Literal[False] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    frequency_penalty: Literal[0] | float | None = Field(None, ge=0, le=0)
    presence_penalty: Literal[0] | float | None = Field(None, ge=0, le=0)
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Words that end the answer before they are said."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(word for word in found if word)

    def new_tokens(self, limits: Limits) -> int:
        """Tokens that the answer may have."""
        asked = self.max_completion_tokens or self.max_tokens or 256
        return min(asked, limits.new_tokens)


def parse_chat(body: bytes, limits: Limits) -> ChatRequest:
    """The question in a body.

    Raises:
        RefusedError: it is none, with the field that is wrong.
    """
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        first = max(found, key=lambda one: len(one["loc"]))  # of several readings the nearest
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise RefusedError(
            f"the field {place!r} cannot be used ({first['msg']}): see docs/serving.md",
            param=place,
        ) from error
    videos = [part for turn in asked.messages for part in turn.parts if part.type == "video_url"]
    if len(videos) > limits.videos:
        raise RefusedError(
            f"at most {limits.videos} videos may stand in a conversation, got {len(videos)}: leave "
            f"some out",
            param="messages",
        )
    wrong = [t.role for t in asked.messages if t.role != "user" and _has_video(t)]
    if wrong:
        raise RefusedError(
            f"videos belong into messages of the user, got one of {wrong[0]!r}: move it",
            param="messages",
        )
    if asked.messages[-1].role != "user":
        raise RefusedError("the last message must be the user's: ask something", param="messages")
    return asked


def _has_video(turn: Turn) -> bool:
    return any(part.type == "video_url" for part in turn.parts)
