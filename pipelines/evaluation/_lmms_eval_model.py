"""The classes behind ``vidcomp.pipelines.evaluation.lmms_eval``; needs lmms-eval."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from vidcomp.errors import ConfigError

from .harness import Harness, settings_of

__all__ = ["SimpleVidComp", "VidComp"]


class VidComp(lmms):  # type: ignore[misc]  # of a package without types
    """A video language model that reads few tokens of each video.

    Args:
        pretrained: folder or hub id of the model.
        compressor: a method of ``vidcomp list compressors`` with settings after colons; empty:
            all tokens.
        budget: tokens that a video may keep, ``196`` or ``10%``.
        num_frames: evenly spaced frames; by default as the model's processor chooses.
        device: where it runs.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        revision: of the hub.
        batch_size: what lmms-eval passes; questions are asked one by one.
        max_batch_size: as well.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        compressor: str = "",
        budget: int | str | None = None,
        num_frames: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        del batch_size, max_batch_size
        self.harness = Harness(
            pretrained,
            compressor=compressor,
            budget=budget,
            num_frames=num_frames,
            device=device or "cpu",
            dtype=dtype,
            revision=revision,
        )

    @property
    def device(self) -> Any:
        """Where the model runs."""
        return self.harness.llm.adapter.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer a request; those about one video are answered one after another."""
        asked = [self._asked(request.args) for request in requests]
        answers = [""] * len(requests)
        for place in tqdm(_by_video([turns for turns, _ in asked]), disable=self.rank != 0):
            turns, given = asked[place]
            said = self.harness.answer(turns, **settings_of(given, 1024))
            answers[place] = _cut(said, given.get("until"))
            key = (str(turns), given)
            self.cache_hook.add_partial("generate_until", key, answers[place])
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each request the loss of the continuation, and whether the model would say it.

        The loss, not its negative, is what the other models of lmms-eval return and what its tasks
        take the smallest of.
        """
        asked = []
        for request in requests:
            context, target, to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            continuation = target if isinstance(target, str) else target(doc)
            asked.append((_turns(to_visual(doc), context), str(continuation)))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(asked)
        for place in tqdm(_by_video([turns for turns, _ in asked]), disable=self.rank != 0):
            turns, continuation = asked[place]
            found[place] = tuple(self.harness.score(turns, continuation))  # type: ignore[assignment]
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Never: the rounds of such tasks hand pictures on.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"tasks of several rounds hand pictures from round to round, got {len(requests)} "
            f"requests of one: choose a task about videos"
        )

    def _asked(self, args: tuple[Any, ...]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """The conversation of a request, and how to generate."""
        _, to_messages, given, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        messages = ChatMessages(messages=to_messages(doc)).messages
        return [{"role": m.role, "content": list(_parts(m.content))} for m in messages], given


class SimpleVidComp(VidComp):
    """The same for tasks that give a text and a list of videos."""

    is_simple = True

    def _asked(self, args: tuple[Any, ...]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        context, given, to_visual, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        return _turns(to_visual(doc), context), given


def _turns(visuals: Sequence[Any], context: str) -> list[dict[str, Any]]:
    """One turn of videos and a text."""
    content: list[dict[str, Any]] = []
    for visual in visuals or ():
        is_file = isinstance(visual, str)
        content.append({"type": "video" if is_file else type(visual).__name__, "path": visual})
    return [{"role": "user", "content": [*content, {"type": "text", "text": context}]}]


def _parts(content: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Parts of a message of lmms-eval."""
    for part in content:
        if part.type == "text":
            yield {"type": "text", "text": part.text}
        else:
            yield {
                "type": part.type,
                "path": part.url,
                "start_s": getattr(part, "start_time", None),
                "end_s": getattr(part, "end_time", None),
            }


def _by_video(asked: Sequence[Sequence[Mapping[str, Any]]]) -> list[int]:
    """Places of the requests, those about the same videos together."""
    groups: dict[str, list[int]] = {}
    for place, turns in enumerate(asked):
        parts = [part for turn in turns for part in turn["content"] if part["type"] != "text"]
        groups.setdefault(repr(parts), []).append(place)
    return [place for group in groups.values() for place in group]


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """Text up to the first of the words that end it."""
    ends = [until] if isinstance(until, str) else until or []
    for end in ends:
        text = text.split(end)[0] if end else text
    return text
