"""Reading a value out of the middle of a network."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Watch"]

Read = Callable[[tuple[Any, ...], Mapping[str, Any], Any], Tensor]


class Watch(nn.Module):
    """Stands in a module's place, runs it and remembers one tensor of the last pass.

    A module of its own rather than a forward hook: torch.compile takes a network with hooks for
    the same one without, and may run what it compiled for the other.
    """

    def __init__(self, inner: nn.Module, read: Read) -> None:
        """``read`` gets the arguments, the keyword arguments and the output of ``inner``."""
        super().__init__()
        self.inner = inner
        self._read = read
        self.value: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What ``inner`` gives."""
        output = self.inner(*args, **kwargs)
        self.value = self._read(args, kwargs, output)
        return output

    def take(self) -> Tensor:
        """The tensor, which is forgotten, so that memory is not held until the next pass."""
        value, self.value = self.value, None
        assert value is not None  # noqa: S101  # the module has run
        return value
