"""What a driver and its hosts tell each other: small values, fit to be sent between machines."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vidcomp import errors
from vidcomp.errors import BudgetError, StoreStaleError, VidcompError

from ..extraction.engine import Waits
from ..extraction.summary import Receipt

__all__ = ["Report", "Started", "Trouble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a host does not go on; an error as words, as classes may be unknown elsewhere."""

    kind: str
    """Class of the error."""
    message: str
    """One sentence."""
    is_blameless: bool = False
    """The machine was taken away on purpose: no attempt of the items that were there."""

    @classmethod
    def of(cls, error: BaseException) -> "Trouble":
        """Of an error that was caught."""
        return cls(kind=type(error).__name__, message=" ".join(str(error).split()))

    @property
    def is_everywhere(self) -> bool:
        """Whether every other host would find the same: recipe and store do not fit."""
        return self.kind in (BudgetError.__name__, StoreStaleError.__name__)

    def error(self) -> VidcompError:
        """The error itself: of the same class if it is one of ours, so that exit codes hold."""
        known = getattr(errors, self.kind, None)
        if isinstance(known, type) and issubclass(known, VidcompError):
            return known(self.message)
        return VidcompError(f"{self.kind}: {self.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A host is ready to work."""

    fingerprint: str
    """16 hex digits of recipe, weights and format."""
    weights: Mapping[str, str]
    """Content hashes of the loaded weights."""
    store_id: str
    """Of the store that the host sees at the path it was given."""
    version: str
    """Of vidcomp there."""
    node: str
    """Name of its machine."""
    pid: int
    """Of its process there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened at a host since the last report."""

    receipts: tuple[Receipt, ...] = ()
    waits: Waits = field(default_factory=Waits)
    """Since the host was started."""
    num_begun: int = 0
    """Items taken up so far."""
    is_over: bool = False
    """The host has committed its records and is no more of use."""
    trouble: Trouble | None = None
    """Why it is over, if not because it was told so."""
