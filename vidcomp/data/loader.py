"""Batches of cached tokens, read ahead by threads into memory that is used again and again."""

import logging
import os
import weakref
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from vidcomp.data.dataset import CachedTokenDataset
from vidcomp.data.plan import Tail
from vidcomp.data.prefetch import Crew, Task
from vidcomp.data.sampler import EpochRun, TokenBatchSampler
from vidcomp.errors import ConfigError, StoreCorruptError
from vidcomp.store import Memory, TokenCache

__all__ = ["OnError", "TokenLoader"]

OnError = Literal["raise", "skip"]

_log = logging.getLogger(__name__)

_KEEP_BYTES = 2 << 30  # no less than a large batch, or none would ever be used again


class TokenLoader:
    """Batches of a token cache; iterating it runs one epoch, and the next time the next epoch.

    Records need no decoding, so threads of this process read them, each straight into its place
    in the batch; worker processes would only add the cost of handing batches over.  The order does
    not depend on the threads.  A batch that is kept is never written to; the memory of one that is
    not is used again.

    Args:
        source: a data set, a cache, or the path or URL of one.
        batch_size: videos a batch on each rank; with ``tokens_per_batch`` at most so many.
        tokens_per_batch: tokens a batch on each rank at most; with ``padded`` it counts cells.
        padded: yield ``PaddedTokens`` and not ``TokenBatch``.
        shuffle: another order each epoch.
        shard_window: shuffle the shards, and videos only within so many of them: reading stays in
            few files at a time, as remote stores want it.
        seed: of all orders, at least 0.
        bucket: sort so many videos by length at a time, so that batches are of like lengths.
        allow_long: a video that alone is over the limit is a batch of its own, not an error.
        drop_last: leave out the last batch of an epoch if it is not full.
        tail: if batches do not divide among ranks, ``"pad"`` repeats batches of this epoch,
            ``"drop"`` leaves the last ones out, ``"uneven"`` lets some ranks take one step less.
        rank: of this process; by default that of ``torch.distributed``, or 0 without it.
        world_size: number of ranks; by default likewise, or 1.
        num_threads: threads that read; with 0 the trainer waits for each batch.
        prefetch: batches that are read, or being read, ahead of the trainer.
        pin_memory: batches lie in page-locked memory, from where copies to a GPU need not wait.
        on_error: ``"skip"`` leaves out videos whose bytes are damaged, logs and counts them.

    Raises:
        StoreMissError: there is no such cache.
        ConfigError: values that cannot be.
    """

    def __init__(
        self,
        source: CachedTokenDataset | TokenCache | str | Path,
        batch_size: int | None = None,
        *,
        tokens_per_batch: int | None = None,
        padded: bool = False,
        shuffle: bool = False,
        shard_window: int | None = None,
        seed: int = 0,
        bucket: int | None = None,
        allow_long: bool = False,
        drop_last: bool = False,
        tail: Tail = "pad",
        rank: int | None = None,
        world_size: int | None = None,
        num_threads: int = 2,
        prefetch: int = 4,
        pin_memory: bool = False,
        on_error: OnError = "raise",
    ) -> None:
        if num_threads < 0 or prefetch < 1 or on_error not in get_args(OnError):
            raise ConfigError(
                f"a loader has num_threads >= 0, prefetch >= 1 and on_error 'raise' or 'skip', got "
                f"{num_threads}, {prefetch} and {on_error!r}: change them"
            )
        self.dataset = (
            source if isinstance(source, CachedTokenDataset) else CachedTokenDataset(source)
        )
        self.sampler = TokenBatchSampler(
            self.dataset,
            batch_size,
            tokens_per_batch=tokens_per_batch,
            padded=padded,
            shuffle=shuffle,
            shard_window=shard_window,
            seed=seed,
            bucket=bucket,
            allow_long=allow_long,
            drop_last=drop_last,
            tail=tail,
            rank=rank,
            world_size=world_size,
        )
        self.padded, self.on_error = padded, on_error
        self.num_threads, self.prefetch = num_threads, prefetch
        self.num_skipped = 0
        """Videos that this rank left out as their bytes are damaged, over all epochs."""
        self._memory = Memory(pin=pin_memory, keep_bytes=_KEEP_BYTES)
        self._batches: weakref.ref[_Batches] | None = None  # it ends when its loop lets go of it

    @property
    def batch_size(self) -> int | None:
        """Videos a batch at most, if there is such a limit."""
        return self.sampler.batch_size

    @property
    def epoch(self) -> int:
        """The epoch under way, or else the next one."""
        return self.sampler.epoch

    @property
    def num_repeated(self) -> int:
        """Videos that all ranks together read again in the epoch that began last (or is next)."""
        return self.sampler.num_repeated

    @property
    def num_dropped(self) -> int:
        """Videos that no rank reads in the epoch that began last (or is next)."""
        return self.sampler.num_dropped

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch next; from a loaded state's place if it is the epoch of that state.

        If nothing of that epoch was left, the next iteration gives nothing; without this call the
        epoch that follows would begin.

        Raises:
            ConfigError: a negative epoch.
        """
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches of this rank in the whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:  # batches, or what the data set joins to them
        batches = _Batches(self)
        self._batches = weakref.ref(batches)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Where the trainer is: plain values of a few hundred bytes, the same on all ranks.

        Batches that were read ahead do not count.
        """
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next iteration gives what was still due there.

        An iteration under way ends.  See ``TokenBatchSampler.load_state_dict``.

        Raises:
            ConfigError: no state.
            StoreStaleError: it is of other records than there are.
        """
        self.close()
        self.sampler.load_state_dict(state)

    def close(self) -> None:
        """End an iteration under way and its threads, as leaving its loop does."""
        batches = None if self._batches is None else self._batches()
        if batches is not None:
            batches.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}


class _Read(NamedTuple):
    """A batch, and why videos are not in it."""

    batch: Any
    lost: list[str]


class _Batches(Iterator[Any]):
    """One epoch; it begins with its first batch, and its threads end with it."""

    def __init__(self, loader: TokenLoader) -> None:
        self._loader = loader
        self._run: EpochRun | None = None
        self._closed = False

    def __next__(self) -> Any:
        if self._closed:
            raise StopIteration
        try:
            if self._run is None:
                self._begin()
            return self._take()
        except BaseException as error:
            # Threads that may be in the middle of a read are not waited for.
            self.close(None if isinstance(error, StopIteration) else 0)
            raise

    def close(self, wait_s: float | None = None) -> None:
        """End the threads, and the iteration."""
        self._closed = True
        if self._run is not None:
            self._tasks.clear()
            self._crew.close(wait_s)

    def _begin(self) -> None:
        loader = self._loader
        skip = loader.on_error == "skip"
        self._read = partial(_read, loader.dataset, loader._memory, loader.padded, skip)
        run = loader.sampler.begin()  # may refuse, before there are threads
        self._num_steps = len(run.share)
        self._crew = Crew(self._read, loader.num_threads)
        self._tasks: deque[Task[_Read]] = deque()
        self._ahead = loader.prefetch if loader.num_threads else 0
        self._submitted = 0
        self._run = run

    def _take(self) -> Any:
        run = self._run
        assert run is not None  # noqa: S101  # the iteration has begun
        while run.steps < self._num_steps:
            read = self._next_read(run)
            for why in read.lost:
                _log.warning("left out: %s", why)
            self._loader.num_skipped += len(read.lost)
            batch = read.batch
            if batch is None and run.share.world_size > 1:
                batch = self._other_batch(run)
            run.steps += 1
            if batch is not None:
                return batch
        run.ended = True
        raise StopIteration

    def _next_read(self, run: EpochRun) -> _Read:
        if self._crew.pid != os.getpid():  # the threads stayed with the process that forked
            self._crew = Crew(self._read, self._loader.num_threads)
            self._tasks = deque(self._crew.submit(task.work) for task in self._tasks)
        while len(self._tasks) <= self._ahead and self._submitted < self._num_steps:
            self._tasks.append(self._crew.submit(run.share.items(self._submitted)))
            self._submitted += 1
        return self._tasks.popleft().result()

    def _other_batch(self, run: EpochRun) -> Any:
        """In place of a batch of which nothing is left: ranks must take equally many steps."""
        for step in chain(range(run.steps + 1, self._num_steps), range(run.steps)):
            if (batch := self._read(run.share.items(step)).batch) is not None:
                return batch
        raise StoreCorruptError(
            f"rank {run.share.rank} cannot read a single video of its epoch in "
            f"{self._loader.dataset.cache.path}: run verify"
        )


def _read(
    dataset: CachedTokenDataset, memory: Memory, padded: bool, skip: bool, items: list[int]
) -> _Read:
    try:
        return _Read(dataset.batch(items, memory, padded=padded), [])
    except StoreCorruptError:
        if not skip:
            raise
    good, lost = [], []
    for i in items:
        try:
            dataset.batch([i])
            good.append(i)
        except StoreCorruptError as error:
            lost.append(str(error))
    return _Read(dataset.batch(good, memory, padded=padded) if good else None, lost)
