"""How fast a host is, and how many items it should have."""

import math

__all__ = ["Pace"]

_LEASE_S = 4.0
_MOST = 512
_MEMORY = 0.6
"""Weight of what was known before when a second of new measurement comes in."""


class Pace:
    """Items a second of one host, measured.

    A host holds up to two leases, each some seconds of its work, so that its pipeline never waits
    for the driver; at least two items for every reader, as nothing is known of it at first.

    Args:
        readers: videos that it decodes at once.
        now: seconds of any clock.
    """

    def __init__(self, readers: int, now: float) -> None:
        self._readers, self._since, self._num = readers, now, 0
        self.per_s = 0.0
        """Items a second; 0 until something is known."""

    def note(self, num: int, now: float) -> None:
        """``num`` more items have ended."""
        self._num += num
        seconds = now - self._since
        if seconds < 1 or not self._num:
            return
        fresh = self._num / seconds
        memory = _MEMORY ** min(seconds, 60) if self.per_s else 0.0
        self.per_s = memory * self.per_s + (1 - memory) * fresh
        self._num, self._since = 0, now

    def lease(self, held: int, waiting: int, hosts: int) -> int:
        """Items to lease now to a host that holds ``held``; 0 if it has enough.

        Args:
            held: items that it has.
            waiting: items that nobody has.
            hosts: that share them.  The last items are dealt out in ever smaller leases, so that
                all hosts end together.
        """
        target = max(2 * self._readers, min(_MOST, math.ceil(2 * _LEASE_S * self.per_s)))
        if held > target // 2:
            return 0
        fair = max(1, -(-waiting // (2 * max(1, hosts))))
        least = max(0, self._readers - held)  # no reader stands still while something waits
        return min(waiting, target - held, max(fair, least))
