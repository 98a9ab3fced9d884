"""A worker that decodes nothing and tells what it is told to tell."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vidcomp.pipelines.extraction.engine import Waits
from vidcomp.pipelines.extraction.summary import Receipt
from vidcomp.pipelines.inputs import Item

Tell = Callable[[Iterable[Item]], Iterator[Receipt]]


@dataclass
class FakeRunner:
    """Stands where a ``Worker`` would; call it as that one is made."""

    tell: Tell
    fingerprint: str = "f" * 16
    weights: dict[str, str] = field(default_factory=lambda: {"encode": "w" * 16})
    waits: Waits = field(default_factory=Waits)
    told: list[Any] = field(default_factory=list)
    """How it was made."""

    def __call__(self, *args: Any, **kwargs: Any) -> "FakeRunner":
        self.told = [args, kwargs]
        return self

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def drain(self) -> None:
        """Nothing is in flight."""

    def run(self, items: Iterable[Item]) -> Iterator[Receipt]:
        """What it was told to tell."""
        yield from self.tell(items)


def ok(item: Item) -> Receipt:
    """Of an item that was made."""
    return Receipt(key=item.key, path=item.path, status="ok", frames=8, tokens_out=4, seconds=0.1)


def failed(item: Item, message: str = "is damaged") -> Receipt:
    """Of an item that gave nothing."""
    return Receipt(
        key=item.key,
        path=item.path,
        status="failed",
        stage="decode",
        error="DecodeError",
        message=f"{item.path} {message}",
    )
