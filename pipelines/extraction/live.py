"""Sources without an end, window by window: cameras, broadcasts, pipes, files that are written.

Each window is a record of its own, with the key of its range.  A file is known by its beginning:
followed again, it goes on behind the windows that are there.  All else starts anew each time, so
that the keys carry when that was: ``cam/1/20260131T235900.125Z@60-120`` is the second minute of
what was followed from then on.
"""

import re
import stat
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import xxhash

from vidcomp.api import Prepared
from vidcomp.config import Recipe
from vidcomp.data.matching import ranged_key
from vidcomp.errors import ConfigError, DecodeError, MissingExtraError
from vidcomp.sample.decode import (
    DecodeRequest,
    Live,
    check_sampler,
    is_address,
    shown_address,
)
from vidcomp.store import SourceId, TokenCache
from vidcomp.types import Frames

from ..inputs import Item, LiveInput
from .run_options import Options

if TYPE_CHECKING:
    from vidcomp.sample.base import Sampler

__all__ = [
    "Closed",
    "Opened",
    "check_live",
    "follow",
    "live_items",
    "live_settings",
    "resumed",
]

_HEAD_BYTES = 64 << 10
_IDLE_S = 10.0
_TRIES = 7
"""Times in a row that a source is opened without a frame before it is given up."""
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LOOK_S = 0.2
_EPSILON_S = 1e-6

Read = Callable[[DecodeRequest], Iterator[Frames]]


@dataclass(frozen=True, slots=True)
class Opened:
    """A window begins; the frames that follow are its own."""

    item: Item
    request: DecodeRequest
    """What a reader would be asked for this window alone."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A window has ended."""

    item: Item
    """With its real range and key."""
    damage: str = ""
    """Why it ended early, if it did."""


def live_items(inputs: Sequence[str], window_s: float) -> list[Item]:
    """One item for each source; nothing is opened.

    Args:
        inputs: addresses, named pipes, files that are written or will be.
        window_s: length of a record, in seconds.

    Raises:
        ConfigError: no inputs, one that cannot be followed, or two of one name.
    """
    if not inputs:
        raise ConfigError("--live needs something to follow: pass addresses, pipes or files")
    items: dict[str, Item] = {}
    for text in inputs:
        item = _live_item(text, window_s)
        if items.setdefault(item.key, item) != item:
            raise ConfigError(
                f"{items[item.key].path} and {item.path} would both be stored as {item.key!r}: "
                f"follow them in two runs with two caches"
            )
    return list(items.values())


def check_live(items: Sequence[Item], recipe: Recipe, options: Options) -> Options:
    """The options with a worker for each source without an end, of which each keeps one busy.

    Raises:
        ConfigError: the recipe's sampler needs to know how long a video is, or a cluster was asked.
    """
    num_live = sum(item.live is not None for item in items)
    if not num_live:
        return options
    check_sampler(cast("Sampler", recipe.sample))
    if options.engine != "local":
        raise ConfigError(
            f"--live follows sources on this machine, got --engine {options.engine}: leave it out, "
            f"and start a run for some of the sources on each machine"
        )
    return replace(options, workers=max(options.num_workers, num_live))


def live_settings(item: Item, prepared: Prepared, stall_s: float) -> Live:
    """How a reader follows an item; it gives up before its own watchdog does."""
    assert item.live is not None  # noqa: S101  # asked for live items only
    return Live(
        window_s=item.live.window_s,
        multiple=prepared.encoder.frames_multiple,
        idle_s=min(_IDLE_S, 0.5 * stall_s),
        patience_s=0.75 * stall_s,
    )


def resumed(item: Item, cache: TokenCache | None) -> Item:
    """The item with the name of its records, and where they end if some are there."""
    live = item.live
    if live is None or not live.is_file:
        return item
    known = {} if cache is None else _known(item.key, cache)
    for base, (end_s, source) in sorted(known.items(), reverse=True):
        if source is not None and _is_same(item.path, source):
            return replace(item, live=replace(live, base=base, resume_s=end_s))
    base = item.key if not known else _base_now(item.key)
    return replace(item, live=replace(live, base=base))


def follow(
    item: Item, request: DecodeRequest, read: Read, is_over: Callable[[], bool]
) -> Generator[Opened | Closed | Frames, None, None]:
    """Windows of a source and their frames, until it ends, cannot be opened again, or is over.

    What has come of a window when the connection is lost is a record too, whose range tells where
    it was lost.  Then the source is opened again, after growing pauses.

    Args:
        item: with ``live``.
        request: for the whole source.
        read: gives the frames of a request.
        is_over: whether to end with what has come.

    Raises:
        DecodeError: the source cannot be opened, or not again.
        ConfigError: settings do not fit.
    """
    live = item.live
    assert live is not None  # noqa: S101  # see live_items
    item = replace(item, live=replace(live, base=live.base or _base_now(item.key)))
    begun: float | None = None  # when time 0 of the source was, on this machine's clock
    done_s, tries = live.resume_s, 0
    while True:
        elapsed_s = 0.0 if live.is_file or begun is None else time.monotonic() - begun
        origin_s = max(done_s, elapsed_s)
        windows = _Windows(item, request)
        problem: Exception | None = None
        try:
            for frames in read(_from(request, live, origin_s)):
                tries = 0
                yield from windows.take(frames)
                del frames  # its memory is the reader's again
                begun = time.monotonic() - windows.end_s if begun is None else begun
                if is_over():
                    break
        except Exception as error:
            # A run that ends closes readers that wait for more, in whatever way they tell it.
            if isinstance(error, ConfigError | MissingExtraError) and not is_over():
                raise
            problem = error
        done_s = max(done_s, windows.end_s)
        is_last = problem is None or is_over()
        yield from windows.close("" if is_last else _why(problem, live))
        if is_last:
            return
        tries += 1
        if tries >= _TRIES:
            raise DecodeError(
                f"{item.path} cannot be followed any more, {tries} tries in a row gave nothing "
                f"({_why(problem, live)}): see to the source and start again"
            ) from problem
        if _pause(min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** (tries - 1)), is_over):
            return


class _Windows:
    """The windows of one connection."""

    def __init__(self, item: Item, request: DecodeRequest) -> None:
        assert item.live is not None  # noqa: S101  # see follow
        self._item, self._request, self._live = item, request, item.live
        self._start_s: float | None = None
        self._stop_s = 0.0
        """Where the window that is open would end."""
        self.end_s = 0.0
        """Time seen so far."""

    def take(self, frames: Frames) -> Iterator[Opened | Closed | Frames]:
        """The next chunk, and the window that begins with it."""
        if frames.first_index == 0:
            yield from self._open(float(frames.pts_s[0]))
        self.end_s = 0.0 if frames.source is None else frames.source.duration_s
        yield frames

    def close(self, damage: str) -> Iterator[Closed]:
        """The window that is open ends here, unless it was to."""
        if self._start_s is not None:
            is_whole = self.end_s >= self._stop_s - _EPSILON_S
            # Up to the next millisecond, so that no frame is cut off or comes twice.
            end_s = self._stop_s if is_whole else -(-self.end_s * 1000 // 1) / 1000
            yield Closed(self._record(self._start_s, end_s), "" if is_whole else damage)
        self._start_s = None

    def _open(self, first_s: float) -> Iterator[Opened | Closed]:
        window_s = self._live.window_s
        if self._stop_s:  # none is left out in between
            yield from self.close("")
            start_s = self._stop_s
        else:
            start_s = max(first_s, self._live.resume_s, 0.0)
        self._start_s = round(start_s, 3)
        self._stop_s = window_s * (1 + (start_s + _EPSILON_S) // window_s)
        item = self._record(self._start_s, self._stop_s)
        yield Opened(item, replace(self._request, start_s=start_s, end_s=self._stop_s))

    def _record(self, start_s: float, end_s: float) -> Item:
        key = ranged_key(self._live.base, start_s, end_s)
        source = _head(self._item.path) if self._live.is_file else None
        return replace(self._item, key=key, start_s=start_s, end_s=end_s, source=source)


def _from(request: DecodeRequest, live: LiveInput, origin_s: float) -> DecodeRequest:
    """The request for what comes from that time on."""
    assert request.live is not None  # noqa: S101  # see follow
    return replace(
        request,
        path=live.address,
        start_s=origin_s if live.is_file and origin_s else None,
        live=replace(request.live, origin_s=origin_s),
    )


def _pause(seconds: float, is_over: Callable[[], bool]) -> bool:
    """Whether the run was over before so many seconds were."""
    until = time.monotonic() + seconds
    while not is_over() and time.monotonic() < until:
        time.sleep(min(_LOOK_S, seconds))
    return is_over()


def _why(problem: Exception | None, live: LiveInput) -> str:
    """An error in words, without the password of an address."""
    text = " ".join(str(problem).split())
    return text.replace(live.address, shown_address(live.address))


def _live_item(text: str, window_s: float) -> Item:
    try:
        if is_address(text):
            shown = shown_address(text)
            key = shown.partition("://")[2]
            live = LiveInput(name=key, address=text, window_s=window_s)
            return Item(key=key, path=shown, live=live)
    except DecodeError as error:
        raise ConfigError(str(error)) from error
    path = Path(text)
    if path.is_dir() or text == "-" or text.startswith("@"):
        raise ConfigError(
            f"--live follows single sources, got {text}: name files, named pipes (mkfifo) or "
            f"addresses one by one"
        )
    is_file = not path.exists() or stat.S_ISREG(path.stat().st_mode)
    live = LiveInput(name=path.name, address=text, window_s=window_s, is_file=is_file)
    return Item(key=path.name, path=text, live=live)


def _base_now(key: str) -> str:
    """The name of records of what is followed from now on."""
    now = datetime.now(UTC)
    return f"{key}/{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z"


def _known(key: str, cache: TokenCache) -> dict[str, tuple[float, SourceId | None]]:
    """By names of records of that source: where they end, and how the file began."""
    pattern = re.compile(
        rf"({re.escape(key)}(?:/\d{{8}}T\d{{6}}\.\d{{3}}Z)?)@[0-9.e+-]+-([0-9.e+]+)"
    )
    found: dict[str, tuple[float, SourceId | None]] = {}
    for name in cache:
        if match := pattern.fullmatch(name):
            base, end_s = match[1], float(match[2])
            if end_s > found.get(base, (0.0, None))[0]:
                found[base] = (end_s, cache.info(name).source)
    return found


def _head(path: str, num_bytes: int = _HEAD_BYTES) -> SourceId | None:
    """How a file begins: the same as long as it only grows."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(num_bytes)
    except OSError:
        return None
    return SourceId(
        size=0, mtime_ns=0, content=f"head{len(head)}:{xxhash.xxh3_128_hexdigest(head)}"
    )


def _is_same(path: str, source: SourceId) -> bool:
    """Whether the file begins as the one behind a record did."""
    match = re.fullmatch(r"head(\d+):[0-9a-f]+", source.content)
    return match is not None and _head(path, int(match[1])) == source
