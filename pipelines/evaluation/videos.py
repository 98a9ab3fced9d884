"""Files of the videos that questions are about."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

from vidcomp.data.matching import VIDEO_SUFFIX, KeyMatcher
from vidcomp.data.questions import Question
from vidcomp.errors import ConfigError

__all__ = ["VideoFiles", "by_clip"]


class VideoFiles:
    """The videos of a folder, and of its folders, by the names that annotations give them.

    Args:
        root: the folder.
        names: other names of videos, see ``read_names``.

    Raises:
        ConfigError: no folder with videos.
    """

    def __init__(self, root: str | Path, names: Mapping[str, str] | None = None) -> None:
        self.root = Path(root)
        self._names = names or {}
        found = sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if VIDEO_SUFFIX.fullmatch(path.suffix) and path.is_file()
        )
        if not found:
            raise ConfigError(
                f"{root} holds no videos: pass the folder that the annotations' videos lie in"
            )
        self._matcher = KeyMatcher(set(found))

    def find(self, question: Question) -> str:
        """Path of the video's file.

        Raises:
            ConfigError: there is none, or several that may be meant.
        """
        ways = [question.video, *question.aliases]
        ways = [*(self._names[way] for way in ways if way in self._names), *ways]
        for way in ways:
            found = self._matcher.find(way)
            if len(found) > 1 and question.folder:
                found = [path for path in found if question.folder in path] or found
            if len(found) == 1:
                return str(self.root / found[0])
            if found:
                raise ConfigError(
                    f"the video {way!r} may be {found[0]} or {found[1]} in {self.root}: name its "
                    f"folder in the annotations, or leave one out"
                )
        raise ConfigError(
            f"the video {question.video!r} is not in {self.root}: put it there, or say with names "
            f"what it is called"
        )


def by_clip(questions: Iterable[Question]) -> list[list[Question]]:
    """Questions about the same part of the same video together, in the order of the first."""
    found: dict[Hashable, list[Question]] = {}
    for one in questions:
        found.setdefault((one.video, one.folder, one.start_s, one.end_s), []).append(one)
    return list(found.values())
