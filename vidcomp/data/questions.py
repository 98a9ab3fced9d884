"""Questions that models are judged by: one value for all that benchmarks publish."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vidcomp.errors import ConfigError

__all__ = ["LETTERS", "Question", "find_option", "without_letters"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of options, in order."""

_LETTERED = re.compile(r"\s*\(?([A-Z])(?:[.:)]+)\s*(.*)\Z", re.DOTALL)
"""``A. text``, ``A) text``, ``(A) text``, ``A: text``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about a video, or a part of it, and the answer that counts as right."""

    id: str
    """Differs from that of every other question of the file."""
    video: str
    """The video's file or id, as the annotations name it."""
    text: str
    """The question alone, without its options."""
    options: tuple[str, ...] = ()
    """Answers to choose from, without letters; none: the answer is free text."""
    correct: int | None = None
    """Which option is right, from 0; ``None`` where it is not known, or there are none."""
    answers: tuple[str, ...] = ()
    """Free texts that are right; none where that is not known."""
    kind: str = ""
    """What is asked for, as the benchmark groups its questions."""
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further groups by their names: ``{"duration": "short"}``."""
    start_s: float | None = None
    """Start of the part of the video that is shown, in seconds."""
    end_s: float | None = None
    """End of that part."""
    aliases: tuple[str, ...] = ()
    """Other names under which the video's file is published."""
    folder: str = ""
    """Part of the path of the video's file, where several have its name."""

    def __post_init__(self) -> None:
        if len(self.options) == 1 or len(self.options) > len(LETTERS):
            raise ConfigError(
                f"a question has no options or 2 to {len(LETTERS)}, got {len(self.options)}: "
                f"correct them"
            )
        if self.correct is not None and not 0 <= self.correct < len(self.options):
            raise ConfigError(
                f"the right option is a number from 0 to {len(self.options) - 1}, got "
                f"{self.correct}: correct it"
            )

    @property
    def is_choice(self) -> bool:
        """Whether an option is to be chosen."""
        return bool(self.options)

    @property
    def has_answer(self) -> bool:
        """Whether it is known what is right."""
        return self.correct is not None or bool(self.answers)

    @property
    def letter(self) -> str | None:
        """Name of the right option."""
        return None if self.correct is None else LETTERS[self.correct]


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options as texts; their letters are cut if they are A, B, C ... in order.

    A lone ``A. M.`` among others is no letter, so it stays.
    """
    found = [_LETTERED.match(option) for option in options]
    cut = [match for match in found if match is not None]
    if [match[1] for match in cut] != list(LETTERS[: len(options)]):
        return tuple(option.strip() for option in options)
    return tuple(match[2].strip() for match in cut)


def find_option(answer: str, options: Sequence[str], *, number_first: bool = False) -> int:
    """Which option an answer means: the option's text, a letter, or a number from 0.

    Args:
        answer: as the annotations write it.
        options: their texts.
        number_first: whether a number is the place of an option even if an option has that text.

    Raises:
        ConfigError: none of them, or several options of that text.
    """
    wanted = answer.strip()
    if number_first and wanted.isdecimal() and int(wanted) < len(options):
        return int(wanted)
    same = [i for i, option in enumerate(options) if option.strip() == wanted]
    if len(same) == 1:
        return same[0]
    name = wanted.strip("().: ").upper()
    if len(name) == 1 and name in LETTERS[: len(options)]:
        return LETTERS.index(name)
    if not same and wanted.isdecimal() and int(wanted) < len(options):
        return int(wanted)
    lettered = _LETTERED.match(wanted)
    if lettered is not None and lettered[1] in LETTERS[: len(options)]:
        return LETTERS.index(lettered[1])
    raise ConfigError(
        f"the answer is one of {list(options)}, its letter or its number from 0, got {answer!r}: "
        f"correct it"
    )
