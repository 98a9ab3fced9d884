"""What the server refuses, in numbers."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from vidcomp.errors import VidcompError

__all__ = ["Limits", "Recent", "RefusedError"]

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes, counts and times that a client may take."""

    body_bytes: int = 1 << 20
    """Of a request that is no upload."""
    upload_bytes: int = 2 << 30
    """Of one video."""
    stored_bytes: int = 20 << 30
    """Of all uploads together."""
    waiting: int = 64
    """Questions that wait for the model; those beyond are told to come again."""
    connections: int = 512
    """At once; those beyond are told to come again."""
    new_tokens: int = 1024
    """Of one answer."""
    videos: int = 8
    """Of one conversation."""
    idle_s: float = 30.0
    """Without a byte of a request's body."""
    fetch_s: float = 60.0
    """To fetch a video from another machine."""
    remembered: int = 32
    """Videos whose tokens stay in memory, and as many answers whose token maps can be seen."""
    prefixes: int = 4
    """Conversations whose keys and values stay in memory."""


class RefusedError(VidcompError):
    """A request that is not carried out.

    Args:
        message: what was wanted, what came, what to do.
        status: of HTTP.
        code: as OpenAI's clients know it.
        param: the field of the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class Recent(Generic[_K, _V]):
    """The values that were asked for last, at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[_K, _V] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        """The value, which is now the one asked for last."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def add(self, key: _K, value: _V) -> None:
        """Keep a value, and forget those that nobody asked for."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def discard(self, key: _K) -> None:
        """Forget a value, if it is there."""
        self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)
