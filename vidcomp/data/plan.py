"""How an epoch is cut into batches, what of it was taken, and who takes the rest.

Batches of an epoch are formed for all ranks together, so that what is left of an epoch does not
depend on how many ranks there were.  An epoch whose rule changed on the way is a list of segments:
each has the items that the ones before it left.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np

from vidcomp.data.dataset import CachedTokenDataset
from vidcomp.data.order import (
    Batches,
    Indices,
    bucket_order,
    cut_by_count,
    cut_by_tokens,
    epoch_order,
    shard_order,
    shuffle_batches,
)
from vidcomp.errors import ConfigError

__all__ = ["Plan", "Position", "Rule", "Share", "Tail", "check_share", "plan_epoch"]

Tail = Literal["pad", "drop", "uneven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What decides the batches of an epoch, but for seed and items.

    Raises:
        ConfigError: values that cannot be.
    """

    batch_size: int | None = None
    """Videos a batch, or at most so many if there is a limit of tokens."""
    tokens_per_batch: int | None = None
    """Tokens a batch at most."""
    padded: bool = False
    """The limit is one of cells of the padded batch."""
    shuffle: bool = False
    """Another order each epoch."""
    shard_window: int | None = None
    """Shuffle shards, and videos within so many of them."""
    bucket: int | None = None
    """Videos that are sorted by length at a time."""
    drop_last: bool = False
    """Leave out a last batch that is not full."""

    def __post_init__(self) -> None:
        if self.batch_size is None and self.tokens_per_batch is None:
            raise ConfigError(
                "batches have a number of videos or of tokens, got neither: pass batch_size, "
                "tokens_per_batch or both"
            )
        for name in ("batch_size", "tokens_per_batch", "shard_window", "bucket"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} is a whole number of at least 1, got {value!r}")
        if self.shard_window is not None and not self.shuffle:
            raise ConfigError(
                "shard_window says how videos are shuffled, got shuffle=False: pass shuffle=True "
                "or leave it out"
            )

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The rule that ``to_json`` made.

        Raises:
            ConfigError: no such rule.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or not value.keys() <= known:
            raise ConfigError(f"a rule of batches has {sorted(known)}, got {value!r}")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """What differs from the default."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def names_shards(self) -> bool:
        """Whether the order depends on which video lies in which shard."""
        return self.shard_window is not None

    def batches(
        self, dataset: CachedTokenDataset, seed: int, epoch: int, left: Indices | None = None
    ) -> Batches:
        """The batches of an epoch, or of what is ``left`` of it."""
        order = self._order(dataset, seed, epoch)
        if left is not None:
            wanted = np.zeros(len(dataset), np.bool_)
            wanted[left] = True
            order = order[wanted[order]]
        if self.bucket is not None:
            order = bucket_order(order, dataset.num_tokens, self.bucket)
        batches = self._cut(dataset, order)
        if self.bucket is not None and self.shuffle:
            return shuffle_batches(batches, seed, epoch)
        return batches

    def _order(self, dataset: CachedTokenDataset, seed: int, epoch: int) -> Indices:
        if self.shard_window is not None:
            return shard_order(dataset.shards, seed, epoch, self.shard_window)
        return epoch_order(len(dataset), seed, epoch, self.shuffle)

    def _cut(self, dataset: CachedTokenDataset, order: Indices) -> Batches:
        if self.tokens_per_batch is None:
            return cut_by_count(order, self.batch_size or 1, self.drop_last)
        return cut_by_tokens(
            order,
            dataset.num_tokens,
            self.tokens_per_batch,
            padded=self.padded,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
        )


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an epoch: how many batches were taken, over all ranks, under which rules."""

    epoch: int = 0
    done: tuple[tuple[Rule, int], ...] = ()

    def plus(self, rule: Rule, count: int) -> "Position":
        """``count`` more batches under ``rule``."""
        if not count:
            return self
        if self.done and self.done[-1][0] == rule:
            return Position(self.epoch, (*self.done[:-1], (rule, self.done[-1][1] + count)))
        return Position(self.epoch, (*self.done, (rule, count)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left of an epoch: its batches from number ``first`` on."""

    position: Position
    """Where it begins."""
    rule: Rule
    batches: Batches
    first: int
    num_cut: int
    """Videos that are in no batch, as it would not be full."""

    @property
    def num_left(self) -> int:
        """Batches for all ranks together."""
        return max(0, len(self.batches) - self.first)

    def share(self, rank: int, world_size: int, tail: Tail) -> "Share":
        """The batches of one rank."""
        return Share(self, rank, world_size, tail)


@dataclass(frozen=True, slots=True)
class Share:
    """The batches of one rank: every ``world_size``-th that is left."""

    plan: Plan
    rank: int
    world_size: int
    tail: Tail

    @property
    def num_rounds(self) -> int:
        """Steps of the rank that takes most."""
        if self.tail == "drop":
            return self.plan.num_left // self.world_size
        return -(-self.plan.num_left // self.world_size)

    def __len__(self) -> int:
        """Steps of this rank."""
        if self.tail == "uneven":
            return max(0, -((self.rank - self.plan.num_left) // self.world_size))
        return self.num_rounds

    def items(self, step: int) -> list[int]:
        """The items of this rank's batch number ``step``."""
        number = self.plan.first + step * self.world_size + self.rank
        # Only past the end of a padded epoch: its first batches are repeated.
        return self.plan.batches.items(number % len(self.plan.batches))

    def position(self, steps: int) -> Position:
        """Where all ranks are when this one has taken so many steps."""
        count = min(steps * self.world_size, self.plan.num_left)
        return self.plan.position.plus(self.plan.rule, count)

    @property
    def num_repeated(self) -> int:
        """Videos that all ranks together read again, to take equally many steps."""
        if self.tail != "pad" or not self.plan.num_left:
            return 0
        extra = np.arange(self.num_rounds * self.world_size - self.plan.num_left)
        return int(self.plan.batches.sizes[extra % len(self.plan.batches)].sum())

    @property
    def num_dropped(self) -> int:
        """Videos that no rank reads: of a last batch that is not full, and of an uneven tail."""
        if self.tail != "drop":
            return self.plan.num_cut
        rest = self.plan.num_left % self.world_size
        last = self.plan.batches.sizes[len(self.plan.batches) - rest :]
        return self.plan.num_cut + int(last.sum())


def check_share(rank: int, world_size: int, tail: Tail) -> None:
    """Refuse ranks and tails that cannot be.

    Raises:
        ConfigError: they cannot be.
    """
    if tail not in get_args(Tail):
        raise ConfigError(f"tail is one of {', '.join(get_args(Tail))}, got {tail!r}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"ranks count from 0 to world_size - 1, got rank {rank} of {world_size}")


def plan_epoch(
    dataset: CachedTokenDataset, seed: int, position: Position, rule: Rule, *, allow_long: bool
) -> Plan:
    """What is left of an epoch under ``rule``, whatever the rules before it were.

    Raises:
        ConfigError: a video alone is over the limit of tokens and ``allow_long`` is false.
    """
    if not allow_long:
        _check_lengths(dataset, rule)
    left: Indices | None = None
    for i, (past, count) in enumerate(position.done, start=1):
        batches = past.batches(dataset, seed, position.epoch, left)
        if past == rule and i == len(position.done):
            return _plan(position, rule, batches, count)
        left = batches.without_first(count)
    return _plan(position, rule, rule.batches(dataset, seed, position.epoch, left), 0)


def _plan(position: Position, rule: Rule, batches: Batches, first: int) -> Plan:
    num_cut = len(batches.order) - int(batches.sizes.sum())
    return Plan(position, rule, batches, first, num_cut)


def _check_lengths(dataset: CachedTokenDataset, rule: Rule) -> None:
    limit = rule.tokens_per_batch
    if limit is None or not len(dataset):
        return
    longest = int(dataset.num_tokens.argmax())
    if (length := int(dataset.num_tokens[longest])) > limit:
        raise ConfigError(
            f"a batch has at most {limit} tokens, but {dataset.keys[longest]!r} alone has "
            f"{length}: raise tokens_per_batch, leave the video out, or pass allow_long=True to "
            f"make it a batch of its own"
        )
