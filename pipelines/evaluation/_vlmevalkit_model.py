"""The class behind ``vidcomp.pipelines.evaluation.vlmevalkit``; needs VLMEvalKit."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmeval.vlm.base import BaseModel

from vidcomp.sample.base import Sampler

from .harness import Harness, settings_of

__all__ = ["VidComp"]


class VidComp(BaseModel):  # type: ignore[misc]  # of a package without types
    """A video language model that reads few tokens of each video.

    Args:
        pretrained: folder or hub id of the model.
        max_new_tokens: most tokens of an answer.
        settings: of ``Harness``.
    """

    INTERLEAVE = True
    VIDEO_LLM = True
    """Datasets hand over the video's file, not pictures of its frames."""

    def __init__(self, pretrained: str, *, max_new_tokens: int = 512, **settings: Any) -> None:
        super().__init__()
        self.max_new_tokens = max_new_tokens
        self.harness = Harness(pretrained, **settings)
        self._own = self.harness.model.sampler
        # A run replaces one of them by what the name of its dataset says (Video-MME_8frame,
        # Video-MME_1fps) and the other by None; it refuses models that have only one.
        self.nframe: int | None = settings.get("num_frames") or 8
        self.fps: float | None = 1.0

    def generate_inner(
        self, message: Sequence[Mapping[str, Any]], dataset: str | None = None
    ) -> str:
        """The answer to a message of texts and videos."""
        del dataset
        self.harness.watch(self._sampler())
        said = settings_of({}, self.max_new_tokens)
        return self.harness.answer(_turns(message), **said)

    def _sampler(self) -> Sampler | None:
        """The frames that the dataset asks for; those of the settings where it does not."""
        from vidcomp.api import sampler

        if self.nframe and not self.fps:
            return sampler("uniform", num_frames=int(self.nframe))
        if self.fps and not self.nframe:
            return sampler("fps", fps=float(self.fps))
        return self._own


def _turns(message: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """System texts as a turn of their own, then the videos, then the texts in their order.

    Videos go first so that questions about one share what the model has read of it.
    """
    system = "\n".join(part["value"] for part in message if part.get("role") == "system")
    others = [part for part in message if part.get("role") != "system"]
    files = [
        {"type": part["type"], "path": part["value"]} for part in others if part["type"] != "text"
    ]
    text = "\n".join(part["value"] for part in others if part["type"] == "text" and part["value"])
    turns = [{"role": "user", "content": [*files, {"type": "text", "text": text}]}]
    if system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return turns
