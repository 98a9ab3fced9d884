"""Questions as the model reads them, and what its answers are worth."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.data.questions import LETTERS, Question

from .model import Asked

__all__ = ["Judged", "Prompts", "judge", "marked", "normalise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """How questions are put; what is compared must be asked alike."""

    choice: str = "Answer with the option's letter from the given choices directly."
    """Last line where an option is to be chosen."""
    free: str = "Answer the question using a single word or phrase."
    """Last line where the answer is free text."""
    permutations: bool = False
    """Ask once with every option first, and average: takes out the liking of some letters."""
    max_new_tokens: int = 16
    """Most tokens of a free answer."""

    def orders(self, num_options: int) -> list[list[int]]:
        """Orders of the options that are asked."""
        turns = range(num_options if self.permutations else 1)
        return [[(place + turn) % num_options for place in range(num_options)] for turn in turns]

    def text(self, question: Question, order: Sequence[int] | None = None) -> str:
        """The question as it is asked, options in that order (by default their own)."""
        if not question.is_choice:
            return f"{question.text}\n{self.free}"
        order = range(len(question.options)) if order is None else order
        options = [
            f"{letter}. {question.options[i]}" for letter, i in zip(LETTERS, order, strict=False)
        ]
        return "\n".join([question.text, *options, self.choice])


class Judged(NamedTuple):
    """An answer."""

    answer: str
    """The letter of an option in their own order, or what the model wrote."""
    is_right: bool | None
    """``None`` where it is not known what is right."""
    gold_logp: float | None
    """Log-probability of the right option among the options; ``None`` for free text."""
    logps: tuple[float, ...]
    """Log-probabilities of the options among each other."""


def judge(asked: Asked, question: Question, prompts: Prompts) -> Judged:
    """Ask a question.

    An option is chosen by the probabilities of the letters as the next token: nothing is sampled
    and no text is searched for a letter.  Free text is right if it equals one of the answers after
    ``normalise``.
    """
    if question.is_choice:
        return _choose(asked, question, prompts)
    said = asked.ask(
        prompts.text(question), max_new_tokens=prompts.max_new_tokens, do_sample=False
    ).text
    return marked(question, said, ())


def _choose(asked: Asked, question: Question, prompts: Prompts) -> Judged:
    num = len(question.options)
    total_O = torch.zeros(num, dtype=torch.float64)
    orders = prompts.orders(num)
    for order in orders:
        scores: Tensor = asked.option_scores(prompts.text(question, order), LETTERS[:num])
        total_O[order] += scores.double().log_softmax(dim=0)
    mean_O = (total_O / len(orders)).log_softmax(dim=0)
    return marked(question, LETTERS[int(mean_O.argmax())], tuple(mean_O.tolist()))


def marked(question: Question, answer: str, logps: tuple[float, ...]) -> Judged:
    """An answer held against what is known to be right.

    Args:
        question: with or without a known answer.
        answer: a letter, or free text.
        logps: log-probabilities of the options; none for free text.
    """
    if question.is_choice:
        gold = question.correct
        if gold is None:
            return Judged(answer, None, None, logps)
        return Judged(answer, answer == LETTERS[gold], logps[gold], logps)
    known = {normalise(one) for one in question.answers}
    return Judged(answer, normalise(answer) in known if known else None, None, logps)


_DIGITS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation if mark not in "'."})


def normalise(answer: str) -> str:
    """An answer without case, punctuation and articles, with numbers up to ten as digits.

    As in VQA: Visual Question Answering (2015), https://visualqa.org/evaluation.html, but for its
    list of contractions.
    """
    plain = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", answer.lower().replace("'", ""))
    words = plain.translate(_PUNCTUATION).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)
