"""What a repair says of itself."""

from dataclasses import dataclass, field

__all__ = ["RepairReport"]


@dataclass(kw_only=True)
class RepairReport:
    """What a repair did, or would do."""

    path: str
    dry_run: bool = False
    num_records: int = 0
    """Valid records that can be read after it."""
    actions: list[str] = field(default_factory=list)
    """All that was changed, one sentence each; empty if nothing was wrong."""
    recovered: list[str] = field(default_factory=list)
    """Commits of dead writers that were finished."""
    num_rescued: int = 0
    """Records copied out of damaged shards."""
    bad: dict[str, str] = field(default_factory=dict)
    """Keys that are missing now, and why: extract these videos again."""
    quarantined: list[str] = field(default_factory=list)
    """Where damaged files are now, in the store."""
    left: list[str] = field(default_factory=list)
    """What was not touched, and why."""

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.actions or self.recovered)

    def did(self, action: str) -> None:
        """Note a change."""
        self.actions.append(action)
