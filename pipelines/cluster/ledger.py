"""Which items wait, who has the others, and what their attempts came to.

Every item has exactly one end: a receipt, or being given up after ``max_attempts`` hosts died with
it.  Items that were with a host when it died go back; after all attempts but one they are suspects,
leased alone, so that the last death has one culprit and its neighbours are done.
"""

from collections import deque
from collections.abc import Iterable

from ..inputs import Item

__all__ = ["Ledger"]


class Ledger:
    """The items of a run.

    Args:
        items: each with a key of its own.
        max_attempts: hosts that may die with an item before it is given up.
    """

    def __init__(self, items: Iterable[Item], *, max_attempts: int = 3) -> None:
        self._waiting = deque(items)
        self._suspects: deque[Item] = deque()
        self._leased: dict[int, dict[str, Item]] = {}
        self._deaths: dict[str, int] = {}
        self._max_attempts = max_attempts

    @property
    def num_waiting(self) -> int:
        """Items that nobody has and that may be leased together."""
        return len(self._waiting)

    @property
    def num_suspects(self) -> int:
        """Items that nobody has and that are to be leased alone."""
        return len(self._suspects)

    @property
    def num_open(self) -> int:
        """Items without an end."""
        leased = sum(len(items) for items in self._leased.values())
        return len(self._waiting) + len(self._suspects) + leased

    def held(self, host: int) -> int:
        """Items that a host has."""
        return len(self._leased.get(host, ()))

    def lease(self, host: int, most: int) -> list[Item]:
        """Hand a host up to ``most`` items that wait."""
        items = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._leased.setdefault(host, {}).update((item.key, item) for item in items)
        return items

    def lease_suspect(self, host: int) -> list[Item]:
        """Hand a host that has nothing one suspect."""
        items = [self._suspects.popleft()] if self._suspects else []
        self._leased.setdefault(host, {}).update((item.key, item) for item in items)
        return items

    def settle(self, host: int, key: str) -> Item | None:
        """A receipt of ``key`` came from a host: the item, which has its end now.

        ``None`` if the host does not have it, so that nothing is counted twice.
        """
        return self._leased.get(host, {}).pop(key, None)

    def take_back(self, host: int, keys: Iterable[str] | None = None) -> None:
        """A host gives back items that it has not begun (by default all): no attempt."""
        mine = self._leased.get(host, {})
        for key in list(mine) if keys is None else keys:
            if (item := mine.pop(key, None)) is not None:
                self._wait(item)

    def lose(self, host: int) -> list[Item]:
        """A host died: its items wait again, in their order; those given up are returned."""
        given_up = []
        for item in reversed(self._leased.pop(host, {}).values()):
            deaths = self._deaths[item.key] = self._deaths.get(item.key, 0) + 1
            if deaths >= self._max_attempts:
                given_up.append(item)
            else:
                self._wait(item)
        return given_up[::-1]

    def deaths(self, item: Item) -> int:
        """How many hosts died with an item."""
        return self._deaths.get(item.key, 0)

    def retried(self) -> set[str]:
        """Keys of items with which a host died."""
        return set(self._deaths)

    def _wait(self, item: Item) -> None:
        is_suspect = self.deaths(item) >= max(1, self._max_attempts - 1)
        (self._suspects if is_suspect else self._waiting).appendleft(item)
