"""Batches of indices for one rank, epoch after epoch, from any place on."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

import torch.distributed
from torch.utils.data import Sampler

from vidcomp.data.dataset import CachedTokenDataset
from vidcomp.data.plan import Plan, Position, Rule, Share, Tail, check_share, plan_epoch
from vidcomp.data.state import LoaderState
from vidcomp.errors import ConfigError

__all__ = ["EpochRun", "TokenBatchSampler"]


class EpochRun:
    """One pass of one rank over what is left of an epoch.

    Args:
        share: the batches of this rank.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self.steps = 0
        """Batches given to the trainer."""
        self.ended = False
        """The trainer has asked for one more than there are."""

    def position(self, steps: int | None = None) -> Position:
        """Where all ranks are now, or were after so many steps of this one."""
        steps = self.steps if steps is None else steps
        if self.ended and steps >= len(self.share):
            steps = self.share.num_rounds  # others may take one step more, with an uneven tail
        return self.share.position(steps)


class TokenBatchSampler(Sampler[list[int]]):
    """Lists of indices, a batch each, for ``DataLoader(dataset, batch_sampler=...)``.

    Each iteration is one epoch and the next one the next epoch.  An epoch is the same for every
    number of ranks: its batches are formed once and dealt to the ranks in turn.  After
    ``load_state_dict`` an iteration gives exactly what was still due.

    Args:
        dataset: what is indexed.
        batch_size: videos a batch on each rank; with ``tokens_per_batch`` at most so many.
        tokens_per_batch: tokens a batch on each rank at most.
        padded: the limit of tokens counts the cells of the padded batch.
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

    Raises:
        ConfigError: values that cannot be.
    """

    def __init__(
        self,
        dataset: CachedTokenDataset,
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
    ) -> None:
        _check_dataset(dataset)
        self.dataset = dataset
        self.rule = Rule(
            batch_size=batch_size,
            tokens_per_batch=tokens_per_batch,
            padded=padded and tokens_per_batch is not None,
            shuffle=shuffle,
            shard_window=shard_window,
            bucket=bucket,
            drop_last=drop_last,
        )
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"a seed is a whole number of at least 0, got {seed!r}")
        if (rank is None) != (world_size is None):
            raise ConfigError(
                f"rank and world_size belong together, got {rank} and {world_size}: pass both or "
                f"none"
            )
        self.seed, self.tail, self._allow_long = seed, tail, allow_long
        self._ranks = None if rank is None or world_size is None else (rank, world_size)
        self._start, self._run, self._plan, self._asked = Position(), None, None, None
        check_share(*self.ranks, tail)

    _start: Position
    """Where the next iteration begins, if there was none since it was set."""
    _run: EpochRun | None
    """The iteration that began last."""
    _plan: Plan | None
    """The last one made; most are asked for several times."""
    _asked: int | None
    """The epoch that was set since the last iteration began."""

    @property
    def ranks(self) -> tuple[int, int]:
        """Rank and number of ranks; looked up late, as trainers make process groups late."""
        if self._ranks is not None:
            return self._ranks
        group = torch.distributed
        if group.is_available() and group.is_initialized():
            return group.get_rank(), group.get_world_size()
        return 0, 1

    @property
    def batch_size(self) -> int | None:
        """Videos a batch at most, if there is such a limit."""
        return self.rule.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return self.rule.drop_last

    @property
    def sampler(self) -> Self:
        """This; trainers look here for ``set_epoch``."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch under way, or else the next one."""
        return self._share().plan.position.epoch

    @property
    def num_repeated(self) -> int:
        """Videos that all ranks together read again in the epoch that began last (or is next)."""
        return self._last().num_repeated

    @property
    def num_dropped(self) -> int:
        """Videos that no rank reads in the epoch that began last (or is next)."""
        return self._last().num_dropped

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch next; from a loaded state's place if it is the epoch of that state.

        If nothing of that epoch was left, the next iteration gives nothing: who counts epochs must
        not see one of them twice.  Without this call the epoch that follows would begin.

        Raises:
            ConfigError: a negative epoch.
        """
        if epoch < 0:
            raise ConfigError(f"epochs count from 0, got {epoch}: pass another")
        if self._run is not None or self._start.epoch != epoch:
            self._start, self._run = Position(epoch), None
        self._asked = epoch

    def __len__(self) -> int:
        """Steps of this rank in the whole epoch, the ones before a loaded state included."""
        plan = self._share().plan
        whole = Position(plan.position.epoch)
        if any(rule != self.rule for rule, _ in plan.position.done):
            plan = self._make_plan(whole)
        plan = Plan(whole, self.rule, plan.batches, 0, plan.num_cut)
        return len(plan.share(*self.ranks, self.tail))

    def __iter__(self) -> Iterator[list[int]]:
        if self._ranks is None and self.ranks[1] > 1:
            _check_reader(sys._getframe(1))
        return _Indices(self)

    def begin(self, *, again: bool = False) -> EpochRun:
        """Begin the next epoch, or go on from a loaded state.

        Args:
            again: this iteration had begun when the state was saved: it is empty if nothing of its
                epoch is left.
        """
        share = self._begin_at(self._start) if again else self._next()
        self._run, self._asked = EpochRun(share), None
        return self._run

    def state_dict(self, num_batches: int | None = None) -> dict[str, Any]:
        """Where this stands: plain values, the same on all ranks.

        Args:
            num_batches: how many batches of this iteration the trainer has seen; by default as
                many as were taken from the sampler, which is more where workers read ahead.
        """
        position = self._start if self._run is None else self._run.position(num_batches)
        return LoaderState.of(self.dataset, self.seed, position).to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next iteration gives what was still due there.

        Its seed is taken over, and if the store has grown the data set goes back to the records
        of then.  Numbers of ranks and rules of batches may be others than they were.

        Raises:
            ConfigError: no state.
            StoreStaleError: it is of other records than there are.
        """
        found = LoaderState.parse(state)
        self.dataset.restore(found.digest, found.pin, found.shard_digest)
        self._plan = None
        self.seed, self._start, self._run = found.seed, found.position, None
        if self._asked is not None and self._asked <= found.position.epoch:
            self._asked = None  # trainers begin to count before they load

    def __getstate__(self) -> dict[str, Any]:
        position = self._start if self._run is None else self._run.position()
        return {**self.__dict__, "_start": position, "_run": None, "_plan": None}

    def _share(self) -> Share:
        """Of the epoch under way, or else of the next."""
        if self._run is not None and not self._run.ended:
            return self._run.share
        return self._next()

    def _last(self) -> Share:
        """Of the epoch that began last, or else of the next."""
        return self._next() if self._run is None else self._run.share

    def _next(self) -> Share:
        """What the next iteration gives."""
        if self._run is not None:
            return self._begin_at(Position(self._run.share.plan.position.epoch + 1))
        share = self._begin_at(self._start)
        over = not share.num_rounds and bool(self._start.done)
        if over and self._asked != self._start.epoch:  # no empty epoch unless it was asked for
            return self._begin_at(Position(max(self._start.epoch + 1, self._asked or 0)))
        return share

    def _begin_at(self, position: Position) -> Share:
        return self._make_plan(position).share(*self.ranks, self.tail)

    def _make_plan(self, position: Position) -> Plan:
        if self._plan is None or self._plan.position != position:
            self._plan = plan_epoch(
                self.dataset, self.seed, position, self.rule, allow_long=self._allow_long
            )
        return self._plan


def _check_dataset(dataset: object) -> None:
    if isinstance(dataset, Sampler):
        # With several ranks and for predictions Lightning makes batch samplers anew around one of
        # its own, which would lose our settings and, as a data set, most of the videos.
        raise ConfigError(
            f"a TokenBatchSampler is made of a data set, got a {type(dataset).__name__}: Lightning "
            f"replaces samplers, so pass it a TokenLoader, or use_distributed_sampler=False"
        )


def _check_reader(frame: FrameType) -> None:
    """Refuse accelerate's wrapper, which tells by nothing else that it deals batches out, too."""
    reader = type(frame.f_locals.get("self"))
    if reader.__name__ == "BatchSamplerShard" and reader.__module__.startswith("accelerate."):
        raise ConfigError(
            "accelerate deals the batches of a prepared DataLoader to ranks, and this "
            "TokenBatchSampler does so, too, which would leave most of them out: pass it rank=0 "
            "and world_size=1, or use a TokenLoader"
        )


class _Indices(Iterator[list[int]]):
    """An iteration; it begins with its first batch, as loaders make more of them than they use."""

    def __init__(self, sampler: TokenBatchSampler) -> None:
        self._sampler = sampler
        self._run: EpochRun | None = None
        self._again = False

    def __next__(self) -> list[int]:
        run = self._run
        if run is None:
            run = self._run = self._sampler.begin(again=self._again)
        if run.steps >= len(run.share):
            run.ended = True
            raise StopIteration
        run.steps += 1
        return run.share.items(run.steps - 1)

    def state_dict(self) -> dict[str, Any]:
        """What the sampler's state does not say: whether this iteration had begun."""
        return {"begun": self._again or self._run is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with an iteration; the sampler's state was loaded before."""
        self._run, self._again = None, state["begun"]
