"""Answers of an evaluation on disk: written as they come, so that a second run goes on."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vidcomp.errors import ConfigError, StoreError

from ..output import json_text

__all__ = ["Answered", "Answers"]

_ANSWERS, _SETTINGS = "answers.jsonl", "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question in one arm."""

    arm: str
    id: str
    """Of the question."""
    video: str
    """As the annotations name it."""
    kind: str
    prompt: str
    """The question as it was asked, options in their own order; the chat template is the
    model's."""
    answer: str
    """A letter, or free text."""
    is_right: bool | None
    gold_logp: float | None
    logps: tuple[float, ...]
    frames: int
    """That were sampled; 0 without a video."""
    tokens_before: int
    """Slots of the whole video in the prompt, structural rows included."""
    tokens_after: int
    """Slots of what the arm shows of it."""
    seconds: float
    """Of the answer, with its share of what its video's questions have in common."""

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """From a line of the file."""
        return cls(**{**row, "logps": tuple(row["logps"])})


class Answers:
    """The answers in a folder.

    Args:
        folder: made when the first answer comes.
        settings: what must be the same for answers to be compared; kept in ``run.json``.

    Raises:
        ConfigError: the folder holds answers that were made with other settings.
        StoreError: it cannot be read or written.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._found: dict[tuple[str, str], Answered] = {}
        self._settings = json.loads(json_text(dict(settings)))
        try:
            self._check()
            self._load()
        except OSError as error:
            raise self._unusable(error) from error

    def get(self, arm: str, question: str) -> Answered | None:
        """The answer to a question in an arm, if there is one."""
        return self._found.get((arm, question))

    def add(self, answers: Iterable[Answered]) -> None:
        """Write answers; they are on disk when this returns.

        Raises:
            StoreError: they cannot be written.
        """
        answers = list(answers)
        lines = [json_text(asdict(one)) + "\n" for one in answers]
        try:
            self._begin()
            with (self.folder / _ANSWERS).open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from error
        self._found.update({(one.arm, one.id): one for one in answers})

    def _begin(self) -> None:
        """A new folder with its settings, only now: nothing is left where no model was found."""
        path = self.folder / _SETTINGS
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json_text(self._settings, indent=1) + "\n", encoding="utf-8")

    def _check(self) -> None:
        path, wanted = self.folder / _SETTINGS, self._settings
        if not path.exists():
            return
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(
                f"{path} does not hold the settings of an evaluation ({error}): choose another "
                f"folder"
            ) from error
        other = [key for key in sorted({*held, *wanted}) if held.get(key) != wanted.get(key)]
        if other:
            raise ConfigError(
                f"{self.folder} holds answers with {other[0]}={held.get(other[0])!r}, got "
                f"{wanted.get(other[0])!r}, and those do not compare: choose another folder"
            )

    def _load(self) -> None:
        path = self.folder / _ANSWERS
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                one = Answered.parse(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(
                    f"line {number} of {path} is no answer ({error}): remove the line, and its "
                    f"question is asked again"
                ) from error
            self._found[one.arm, one.id] = one
        if len(whole) < len(content):  # a run was killed while it wrote the last line
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the folder {self.folder} cannot hold answers ({error.strerror or error}): choose "
            f"another place"
        )
