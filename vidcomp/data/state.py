"""Where a loader stands, as a few hundred bytes of JSON that any rank of any job can go on from."""

from dataclasses import dataclass
from typing import Any, Self

from vidcomp.data.dataset import CachedTokenDataset
from vidcomp.data.plan import Position, Rule
from vidcomp.errors import ConfigError

__all__ = ["STATE_VERSION", "LoaderState"]

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class LoaderState:
    """A place in the epochs of a data set."""

    seed: int
    position: Position
    digest: str
    """Of keys and token counts of the data set."""
    pin: str
    """Opens those records again."""
    shard_digest: str | None = None
    """Of which items lie together, if the order of this epoch depends on it."""

    @classmethod
    def of(cls, dataset: CachedTokenDataset, seed: int, position: Position) -> Self:
        """The state of a loader that stands there."""
        by_shard = any(rule.names_shards for rule, _ in position.done)
        shards = dataset.shard_digest if by_shard else None
        return cls(seed, position, dataset.digest, dataset.pin, shards)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the history is a list of rules and the batches taken under each."""
        state = {
            "version": STATE_VERSION,
            "digest": self.digest,
            "pin": self.pin,
            "seed": self.seed,
            "epoch": self.position.epoch,
            "done": [[rule.to_json(), count] for rule, count in self.position.done],
        }
        return state if self.shard_digest is None else {**state, "shards": self.shard_digest}

    @classmethod
    def parse(cls, state: Any) -> Self:
        """The state that ``to_json`` made.

        Raises:
            ConfigError: no such state, or one of another version.
        """
        if not isinstance(state, dict) or "version" not in state:
            raise ConfigError(
                f"a state is what state_dict() of a loader or sampler gave, got {_short(state)}: "
                f"pass that"
            )
        if state["version"] != STATE_VERSION:
            raise ConfigError(
                f"a state of version {STATE_VERSION} is wanted, got version "
                f"{_short(state['version'])}: load it with the vidcomp that saved it"
            )
        try:
            done = tuple((Rule.parse(rule), _count(n)) for rule, n in state["done"])
            position = Position(_count(state["epoch"]), done)
            texts = (str(state["digest"]), str(state["pin"]), state.get("shards"))
            return cls(_count(state["seed"]), position, *texts)
        except (KeyError, TypeError, ValueError) as error:  # a ConfigError is a ValueError, too
            raise ConfigError(
                f"the state cannot be used ({type(error).__name__}: {error}): pass what "
                f"state_dict() gave, unchanged"
            ) from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a whole number of at least 0 is wanted, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
