"""A model that knows the answers to questions, and forgets them with the tokens it is not shown."""

from types import SimpleNamespace

import torch

from vidcomp.data.questions import LETTERS
from vidcomp.errors import DecodeError
from vidcomp.types import Grid, QueryFeatures, VideoTokens

GRID = Grid(4, 4, 4)


class FakeModel:
    """Right if it sees at least as many tokens as the question's number after ``needs``.

    Args:
        right: option, or text, by the question's first line.
        bias: added to the score of the first letter.
    """

    name = "fake"

    def __init__(self, right, *, bias=0.0, extra_rows=0, broken=()):
        self.right, self.bias, self.extra_rows, self.broken = right, bias, extra_rows, broken
        self.encoded, self.sessions, self.asked, self.bound = [], [], [], []

    def encode(self, path, start_s, end_s, /):
        self.encoded.append((path, start_s, end_s))
        if any(name in path for name in self.broken):
            raise DecodeError(f"{path} is broken: mend it")
        draw = torch.Generator().manual_seed(len(path))
        rows = torch.randn(GRID.num_patches, 8, generator=draw)
        times = torch.arange(2 * GRID.t, dtype=torch.float64).view(GRID.t, 2)
        spans = torch.stack([times[:, 0], times[:, 1] + 1], dim=1).float()
        return VideoTokens.from_grid(rows, GRID, spans, frame_extras={"pts_s": times})

    def structural(self, grid, /):
        return self.extra_rows

    def bind(self, stage, question, /):
        self.bound.append(question)
        draw = torch.Generator().manual_seed(len(question))
        return stage.bind(QueryFeatures(embedding=torch.randn(1, 8, generator=draw)))

    def session(self, videos, /):
        self.sessions.append([len(video) for video in videos])
        return FakeSession(self, sum(len(video) for video in videos))


class FakeSession:
    def __init__(self, model, seen):
        self.model, self.seen = model, seen

    def knows(self, question):
        first = question.split("\n")[0]
        self.model.asked.append(question)
        needs = int(first.split("needs ")[1].split()[0].rstrip("?"))
        return self.model.right[first] if self.seen >= needs else None

    def ask(self, question, **settings):
        return SimpleNamespace(text=self.knows(question) or "I do not know")

    def option_scores(self, question, options, /):
        known = self.knows(question)
        texts = [line[3:] for line in question.split("\n")[1:-1]]
        assert [line[0] for line in question.split("\n")[1:-1]] == list(LETTERS[: len(options)])
        scores = torch.tensor([2.0 * (text == known) for text in texts])
        scores[0] += self.model.bias
        return scores - 5
