"""Tries again what may work the next time: a few times, ever later, up to a deadline."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from vidcomp.store.remote.errors import TransientError

__all__ = ["retry"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_TRIES = 4
_FIRST_S = 0.1
_MOST_S = 5.0

# Of the system, so that seeded programs stay seeded and forked ones do not wait in step.
_random = random.SystemRandom()


def retry(call: Callable[[], _T], deadline_s: float) -> _T:
    """The result of ``call``, tried again after a TransientError.

    The libraries behind it try single requests again by themselves; this is for what they leave:
    an answer that broke off, a write of which nobody knows whether it happened.

    Args:
        call: may be called any number of times.
        deadline_s: no try begins later than this after the first; seconds.

    Raises:
        TransientError: of the last try.
    """
    begin = time.monotonic()
    for number in range(1, _TRIES + 1):
        try:
            return call()
        except TransientError as error:
            pause = _random.uniform(0.5, 1.0) * min(_MOST_S, _FIRST_S * 4 ** (number - 1))
            if number == _TRIES or time.monotonic() + pause - begin > deadline_s:
                raise
            _log.info("trying again in %.1f s: %s", pause, error)
            time.sleep(pause)
    raise AssertionError  # the last try has returned or raised
