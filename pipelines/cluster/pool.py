"""What a driver asks of the place where hosts live; Ray is one, the tests' dice another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..inputs import Item
from .messages import Report, Started, Trouble

__all__ = ["Event", "Patience", "Pool"]


class Event(NamedTuple):
    """What came from a host; a ``Trouble`` means that it is gone, or cannot start."""

    host: int
    what: Started | Report | list[str] | Trouble
    """A list has the keys of items that the host gave back."""


class Pool(Protocol):
    """Makes hosts and passes messages on; hosts are known by numbers, no two the same."""

    def start(self) -> int:
        """Ask for a host; its ``Started`` comes as soon as there is room for it."""

    def has_room(self) -> bool:
        """Whether another host would find resources now."""

    def describe(self) -> str:
        """What a host needs and what there is, for messages."""

    def lease(self, host: int, items: Sequence[Item]) -> None:
        """Give a host items."""

    def take_back(self, host: int) -> None:
        """Ask a host for items that it has not begun; their keys come as an event."""

    def finish(self, host: int) -> None:
        """Let a host end what it has, and commit; its last report follows."""

    def drain(self, host: int, grace_s: float) -> None:
        """Let a host begin nothing more, end what it has begun, and commit."""

    def kill(self, host: int) -> None:
        """End a host at once, or clear away one that is gone; nothing more comes from it."""

    def events(self, patience_s: float) -> list[Event]:
        """What came since the last call; waits for something to come, up to ``patience_s``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, and how often, a driver bears what."""

    first_s: float = 1800.0
    """No host at all has become ready."""
    notice_s: float = 15.0
    """After so long without any host it says what it waits for."""
    reply_s: float = 180.0
    """A host does not answer."""
    silence_s: float = 1800.0
    """A host answers and has items, but does nothing: no frames, no receipts."""
    close_s: float = 900.0
    """A host is to commit its records and end."""
    init_failures: int = 3
    """Hosts in a row that cannot start while none runs; then the last one's error is ours."""
    fruitless: int = 8
    """Hosts in a row that die before they have ended one item, besides two for each that runs."""
    backoff_s: float = 2.0
    """Pause after a host that could not start; doubled for each further one."""
