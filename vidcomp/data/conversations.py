"""Conversations about a video as questions and answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from vidcomp.errors import ConfigError

__all__ = ["CONVERSATIONS", "is_conversation", "pairs"]

CONVERSATIONS = ("conversations", "conversation", "messages")
"""Usual names of the column."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

# Stands in the text where the model puts the video; a model's own code knows its own.
_PLACEHOLDER = re.compile(r"\s*<(?:image|video)>\s*")


def is_conversation(cell: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether a cell is a list of turns."""
    return isinstance(cell, list | tuple) and bool(cell) and all(isinstance(t, dict) for t in cell)


def pairs(turns: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Questions and what was answered, in order; ``None`` where the last was not answered.

    ``<image>`` and ``<video>`` are cut out of questions, turns of the system are left out.

    Args:
        turns: ``{"from": "human" or "gpt", "value": text}`` each, or ``{"role": "user" or
            "assistant", "content": text}``, where the content may be a list of parts.

    Raises:
        ConfigError: a turn is not of that form, or the two do not take turns.
    """
    said: list[tuple[str, str | None]] = []
    for number, turn in enumerate(turns, start=1):
        role, text = _turn(number, turn)
        waiting = bool(said) and said[-1][1] is None
        if role == "system":
            continue
        if (role == "assistant") is not waiting:
            raise ConfigError(
                f"turn {number} of the conversation is the {role}'s, but it is the "
                f"{'assistant' if waiting else 'user'}'s turn: they must alternate"
            )
        if role == "assistant":
            said[-1] = (said[-1][0], text)
        else:
            said.append((_PLACEHOLDER.sub(" ", text).strip(), None))
    if not said:
        raise ConfigError("the conversation holds no question: leave the row out")
    return said


def _turn(number: int, turn: Mapping[str, Any]) -> tuple[str, str]:
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if isinstance(content, list | tuple):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in parts if isinstance(text, str))
    known = "system" if role == "system" else _ROLES.get(str(role))
    if known is None or not isinstance(content, str):
        raise ConfigError(
            f"turn {number} of the conversation must be {{from: human or gpt, value: text}} or "
            f"{{role: user or assistant, content: text}}, got {dict(turn)}: mend it"
        )
    return known, content
