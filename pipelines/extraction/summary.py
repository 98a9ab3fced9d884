"""What a run did: counts, the first rows, the failures."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vidcomp.errors import VidcompError

if TYPE_CHECKING:
    from .engine import Done, Failed

__all__ = ["Receipt", "Summary", "done_receipt", "failed_receipt", "sentence"]

_ROWS = 60
"""Items that are reported one by one; larger runs report counts and failures."""
_FAILURES = 1000
"""Failures that are reported one by one; the store has a record of each."""
_COUNTERS = {"failed": "failed", "failed before": "failed_before", "cached": "cached"}
_ENOUGH = 20
"""Rows of which the outcome is known before a share of failures is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of one item; small, and fit to be sent between machines."""

    key: str
    """Name of the record in the cache."""
    path: str
    """File path or URL."""
    status: str
    """ok, damaged, cached, failed, failed before or lost."""
    duration_s: float | None = None
    """Length of the sampled range."""
    frames: int | None = None
    """Sampled frames."""
    tokens_in: int | None = None
    """Patch tokens before compression."""
    tokens_out: int | None = None
    """Tokens kept."""
    seconds: float | None = None
    """Of work: decoding, its share of passes of the encoder, compressing."""
    stage: str = ""
    """Of a failure: decode, encode, compress or write."""
    error: str = ""
    """Class of the error."""
    message: str = ""
    """The error in one sentence."""
    replaces: str = ""
    """Status of an earlier receipt of this run for the item, which has turned out to be wrong."""

    @property
    def reduction_factor(self) -> float | None:
        """Tokens before over tokens kept."""
        if not self.tokens_in or not self.tokens_out:
            return None
        return self.tokens_in / self.tokens_out


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run did; ``exit_code`` is the command's."""

    store: str
    recipe: str
    planned: int
    """Rows of the inputs; all counts are of rows, so that they add up to it."""
    run: str = ""
    """Name of the run, of its record in the store."""
    fingerprint: str = ""
    done: int = 0
    cached: int = 0
    failed: int = 0
    failed_before: int = 0
    stopped: bool = False
    """Whether the limit of failures ended the run."""
    interrupted: str = ""
    """The signal that asked the run to stop, as ``SIGINT``."""
    signal_code: int = 0
    """Exit code that belongs to the signal."""
    seconds: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)
    """Seconds that went to waiting for frames, for the encoder and for the writer, and to work."""
    rows: list[Receipt] = field(default_factory=list)
    """What became of the first items, one by one."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """The first thousand; the store's error records have all."""
    missing: list[str] = field(default_factory=list)
    """Keys of lost items, the first thousand."""

    @property
    def lost(self) -> int:
        """Rows that are neither done nor failed: nobody knows why, or they were not begun."""
        return self.planned - self.done - self.cached - self.failed - self.failed_before

    @property
    def exit_code(self) -> int:
        """0 all there, 1 some lost, 3 some failed, 4 stopped by the limit, 130/143 by a signal."""
        if self.signal_code:
            return self.signal_code
        if self.stopped:
            return 4
        if self.lost:
            return 1
        return 3 if self.failed or self.failed_before else 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self) | {"lost": self.lost, "exit_code": self.exit_code}
        del values["signal_code"]
        return values

    def counts(self) -> dict[str, int]:
        """Rows by what became of them; without the planned ones they add up to those."""
        names = ("planned", "done", "cached", "failed", "failed_before", "lost")
        return {name: getattr(self, name) for name in names}

    def has_too_many_failures(self, most: int | None, most_share: float | None) -> bool:
        """Whether a run with these limits is to be stopped.

        Args:
            most: failures of this run that are put up with.
            most_share: of all planned rows; judged when this run knows what became of 20 rows, or
                of all that it had to do.
        """
        if most is not None and self.failed > most:
            return True
        known = self.done + self.failed
        is_over = known + self.cached + self.failed_before == self.planned
        if most_share is None or (known < _ENOUGH and not is_over):
            return False
        return self.failed > most_share * self.planned

    def add(self, receipt: Receipt, rows: int = 1) -> None:
        """Count what became of an item that so many rows name.

        One that replaces an earlier receipt takes that one's count back.  Lost items are only
        named: ``lost`` is what no count has.
        """
        if receipt.replaces:
            self._count(receipt.replaces, -rows)
        self._count(receipt.status, rows)
        if receipt.status == "lost":
            if len(self.missing) < _FAILURES:
                self.missing.append(receipt.key)
            return
        if receipt.message and len(self.failures) < _FAILURES:
            self.failures.append(
                {
                    "key": receipt.key,
                    "path": receipt.path,
                    "stage": receipt.stage,
                    "error": receipt.message,
                }
            )
        if not self.is_full:
            self.rows.append(receipt)

    def _count(self, status: str, rows: int) -> None:
        if status != "lost":
            name = _COUNTERS.get(status, "done")
            setattr(self, name, getattr(self, name) + rows)

    @property
    def is_full(self) -> bool:
        """Whether no more rows are shown."""
        return len(self.rows) >= _ROWS


def sentence(error: Exception) -> str:
    """One line about an error; ours already are one."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VidcompError) else f"{type(error).__name__}: {text}"


def done_receipt(done: "Done") -> Receipt:
    """Of an item whose record is written."""
    return Receipt(
        key=done.item.key,
        path=done.item.path,
        status="damaged" if done.source is not None and done.source.damage else "ok",
        duration_s=done.num_seconds,
        frames=done.num_frames,
        tokens_in=done.num_tokens_in,
        tokens_out=len(done.video),
        seconds=done.seconds,
    )


def failed_receipt(failed: "Failed") -> Receipt:
    """Of an item that gave no record."""
    return Receipt(
        key=failed.item.key,
        path=failed.item.path,
        status="failed",
        stage=failed.stage,
        error=type(failed.error).__name__,
        message=sentence(failed.error),
    )
