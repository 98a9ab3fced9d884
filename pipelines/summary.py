"""What a run did: counts, the first rows, the failures."""

from dataclasses import asdict, dataclass, field
from typing import Any

from vidcomp.errors import VidcompError

from .engine import Done, Failed

__all__ = ["Row", "Summary", "sentence"]

_ROWS = 60
"""Items that are reported one by one; larger runs report counts and failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result table."""

    clip: str
    status: str
    """ok, damaged, cached, failed or failed before."""
    duration_s: float | None = None
    """Length of the sampled range."""
    frames: int | None = None
    """Sampled frames."""
    tokens_in: int | None = None
    """Patch tokens before compression."""
    tokens_out: int | None = None
    """Tokens kept."""
    seconds: float | None = None
    """From the start of decoding to the compressed tokens."""

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
    fingerprint: str = ""
    done: int = 0
    cached: int = 0
    failed: int = 0
    failed_before: int = 0
    stopped: bool = False
    """Whether the limit of failures ended the run."""
    seconds: float = 0.0
    waits: dict[str, float] = field(default_factory=dict)
    """Seconds that the encoder waited for frames and for the writer, and worked."""
    rows: list[Row] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all there, 1 some neither done nor failed, 3 some failed, 4 stopped by the limit."""
        if self.stopped:
            return 4
        if self.done + self.cached + self.failed + self.failed_before < self.planned:
            return 1
        return 3 if self.failed or self.failed_before else 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"exit_code": self.exit_code}

    def add(self, outcome: Done | Failed) -> None:
        """Count an outcome of this run."""
        if isinstance(outcome, Done):
            self.done += 1
            self._show(_row_of(outcome))
        else:
            self.failed += 1
            item = outcome.item
            self._fail(item.key, item.path, outcome.stage, sentence(outcome.error), "failed")

    def add_failed_before(self, key: str, path: str, stage: str, message: str) -> None:
        """Count an item that an earlier run could not do."""
        self.failed_before += 1
        self._fail(key, path, stage, message, "failed before")

    def add_cached(self, key: str, num_tokens: int, meta: dict[str, Any]) -> None:
        """Show a record that is already there; ``cached`` counts them all."""
        self._show(
            Row(
                clip=key,
                status="cached",
                duration_s=meta.get("seconds"),
                frames=meta.get("num_frames"),
                tokens_in=meta.get("tokens_in"),
                tokens_out=num_tokens,
            )
        )

    @property
    def is_full(self) -> bool:
        """Whether no more rows are shown."""
        return len(self.rows) >= _ROWS

    def _show(self, row: Row) -> None:
        if not self.is_full:
            self.rows.append(row)

    def _fail(self, key: str, path: str, stage: str, message: str, status: str) -> None:
        self.failures.append({"key": key, "path": path, "stage": stage, "error": message})
        self._show(Row(clip=key, status=status))


def sentence(error: Exception) -> str:
    """One line about an error; ours already are one."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VidcompError) else f"{type(error).__name__}: {text}"


def _row_of(done: Done) -> Row:
    return Row(
        clip=done.item.key,
        status="damaged" if done.source is not None and done.source.damage else "ok",
        duration_s=done.num_seconds,
        frames=done.num_frames,
        tokens_in=done.num_tokens_in,
        tokens_out=len(done.video),
        seconds=done.seconds,
    )
