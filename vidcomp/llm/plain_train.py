"""Training a projector, and the language model behind it, on questions about cached tokens.

The loss is that of the answer's tokens alone: videos, questions and what was said before have none.

Legend: B examples, L rows of a sequence, K places whose next token is learned, V the vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from vidcomp.encode.vlm.families import is_recurrent
from vidcomp.errors import ConfigError
from vidcomp.llm.plain import PlainLLM, PlainPrompt
from vidcomp.types import TokenBatch, VideoTokens

if TYPE_CHECKING:
    from vidcomp.data.annotations import QAExample
    from vidcomp.data.qa_batch import QABatch

__all__ = ["IGNORED", "Labelled", "PlainTraining"]

IGNORED = -100
"""Label of a place that is not learned, as everywhere in torch and transformers."""


class Labelled(NamedTuple):
    """A conversation with its answer."""

    prompt: PlainPrompt
    labels: Tensor
    """[L] int64: ids of the answer, ``IGNORED`` elsewhere."""


class PlainTraining(nn.Module):
    """The loss of a batch of ``QADataset``, for any training loop.

    Its parameters are those of the model and of the projector; freeze what is not to be learned
    (``llm.model.requires_grad_(False)``), or put adapters into the model before.

    Args:
        llm: whose projector is trained.
        packed: examples end to end in one sequence, none sees another, nothing is padded; else
            side by side, padded on the right.

    Raises:
        ConfigError: packed sequences for a model with recurrent layers.
    """

    def __init__(self, llm: PlainLLM, *, packed: bool = False) -> None:
        super().__init__()
        self.llm = llm
        self.model: nn.Module = llm.model
        self.projector = llm.projector
        self.packed = packed
        if packed and is_recurrent(llm.model.config):
            raise ConfigError(
                f"{type(llm.model).__name__} has recurrent layers, whose state goes on from one "
                f"packed example to the next: use packed=False"
            )

    def forward(
        self, batch: "QABatch", num_items_in_batch: Tensor | int | None = None
    ) -> dict[str, Tensor]:
        """The mean loss of the answers' tokens.

        Args:
            batch: of ``QADataset`` by ``collate_qa``.
            num_items_in_batch: tokens that the sum of losses is divided by in place of their
                number here, as transformers' Trainer gives it for accumulated gradients.

        Returns:
            ``loss`` (a scalar, float32), ``logits`` [K, V] and ``labels`` [K] of what is learned.

        Raises:
            ConfigError: an example without an answer, or padded tokens.
            BudgetError: one that exceeds the model's context.
        """
        labelled = self.labelled(batch)
        inputs, labels_BL = self._packed(labelled) if self.packed else self._padded(labelled)
        is_next_BL = labels_BL[:, 1:] != IGNORED
        column_C = is_next_BL.any(dim=0).nonzero().squeeze(1)
        # Logits of other columns would be most of the memory.
        out = self.model(**inputs, use_cache=False, logits_to_keep=column_C)
        chosen_BC = is_next_BL[:, column_C]
        logits_KV = out.logits[chosen_BC].float()
        labels_K = labels_BL[:, 1:][:, column_C][chosen_BC]
        loss = cross_entropy(logits_KV, labels_K, reduction="sum")
        return {
            "loss": loss / (len(labels_K) if num_items_in_batch is None else num_items_in_batch),
            "logits": logits_KV,
            "labels": labels_K,
        }

    def labelled(self, batch: "QABatch") -> list[Labelled]:
        """Sequences of a batch and what is learned of them.

        Raises:
            ConfigError: see ``forward``.
        """
        if not isinstance(batch.tokens, TokenBatch):
            raise ConfigError(
                f"a projector reads videos with their grids, got {len(batch)} padded ones: use "
                f"collate_qa, or a TokenLoader with padded=False"
            )
        texts = [self._texts(example) for example in batch.examples]
        questions = [example.question for example in batch.examples]
        projected = self.llm.project_all(list(batch.tokens), questions)
        return [
            self._labelled(asked, answer, video)
            for (asked, answer), video in zip(texts, projected, strict=True)
        ]

    def _labelled(self, asked: Sequence[str], answer: str, projected: VideoTokens) -> Labelled:
        prompt = self.llm.joined(asked, [projected])
        ids = self.llm.chat.ids(answer)
        ends = _ends(self.llm)
        if ends and not bool(torch.isin(ids, torch.tensor(ends)).any()):
            ids = torch.cat([ids, torch.tensor(ends[:1])])  # or it would never stop
        whole = PlainPrompt((*prompt.parts, ids))
        self.llm.check_length(whole, {})
        labels = torch.cat([torch.full((prompt.num_prompt,), IGNORED), ids])
        return Labelled(whole, labels)

    def _texts(self, example: "QAExample") -> tuple[list[str], str]:
        """The prompt as when it is asked, cut at the video, and the answer with its end."""
        if example.answer is None:
            raise ConfigError(
                f"an answer is what is learned, got none for the question {example.question!r} "
                f"of {example.key!r}: leave it out"
            )
        turns: list[dict[str, Any]] = []
        for question, said in (*example.history, (example.question, example.answer)):
            turns.append({"role": "user", "content": [{"type": "text", "text": question}]})
            turns.append({"role": "assistant", "content": said})
        turns[0]["content"].insert(0, {"type": "video"})
        asked = self.llm.chat.pieces(turns[:-1], 1)
        whole = self.llm.chat.pieces(turns, 1, answers=False)
        if whole[0] != asked[0] or not whole[1].startswith(asked[1]):
            raise ConfigError(
                "the chat template writes a question with its answer otherwise than the question "
                "alone, so what is learned would not be what is asked: give another template"
            )
        return asked, whole[1][len(asked[1]) :]

    def _padded(self, labelled: Sequence[Labelled]) -> tuple[dict[str, Tensor], Tensor]:
        rows = [self.llm.embedded(one.prompt) for one in labelled]
        real = [torch.ones(len(x_LD), dtype=torch.int64, device=x_LD.device) for x_LD in rows]
        mask_BL = pad_sequence(real, batch_first=True)
        labels_BL = pad_sequence(
            [one.labels for one in labelled], batch_first=True, padding_value=IGNORED
        )
        inputs = {
            "inputs_embeds": pad_sequence(rows, batch_first=True),
            "attention_mask": mask_BL,
            "position_ids": (mask_BL.cumsum(-1) - 1).clamp(min=0),
        }
        return inputs, labels_BL.to(mask_BL.device)

    def _packed(self, labelled: Sequence[Labelled]) -> tuple[dict[str, Tensor], Tensor]:
        """Sequences end to end: transformers takes positions that begin anew for the start of
        another sequence, if there is neither a mask nor a cache.
        """
        x_1LD = torch.cat([self.llm.embedded(one.prompt) for one in labelled])[None]
        places = [torch.arange(len(one.labels)) for one in labelled]
        labels = [one.labels for one in labelled]
        inputs = {"inputs_embeds": x_1LD, "position_ids": torch.cat(places)[None].to(x_1LD.device)}
        return inputs, torch.cat(labels)[None].to(x_1LD.device)


def _ends(llm: PlainLLM) -> list[int]:
    """Ids that end an answer, the tokenizer's own first."""
    own, more = llm.tokenizer.eos_token_id, llm.model.generation_config.eos_token_id
    listed = more if isinstance(more, list) else [more]
    return [int(number) for number in dict.fromkeys([own, *listed]) if number is not None]
