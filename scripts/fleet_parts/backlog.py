"""Videos that nobody has, and videos whose records nobody could read yet."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

__all__ = ["Backlog", "Unsealed"]


class Backlog:
    """A queue of numbers that holds ranges as ranges."""

    def __init__(self, videos: Sequence[int] = ()) -> None:
        self._parts: deque[Sequence[int]] = deque([videos] if len(videos) else [])
        self._number = len(videos)

    def __len__(self) -> int:
        return self._number

    def give_back(self, videos: Sequence[int]) -> None:
        """Put videos before all others."""
        if len(videos):
            self._parts.appendleft(videos)
            self._number += len(videos)

    def take(self, most: int) -> Sequence[int]:
        """Up to ``most`` of the first ones."""
        taken: list[Sequence[int]] = []
        left = min(most, self._number)
        self._number -= left
        while left:
            part = self._parts.popleft()
            if len(part) > left:
                self._parts.appendleft(part[left:])
                part = part[:left]
            taken.append(part)
            left -= len(part)
        if len(taken) == 1:
            return taken[0]
        return [video for part in taken for video in part]


class Unsealed:
    """Records that an actor has written since its last commit."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self.videos: list[int] = []

    def add(self, times: Sequence[float], videos: Sequence[int]) -> None:
        """Later ones."""
        self._times.extend(times)
        self.videos.extend(videos)

    def seal(self, at_s: float) -> None:
        """A commit then: what was written until then is safe."""
        number = bisect_right(self._times, at_s)
        del self._times[:number], self.videos[:number]
