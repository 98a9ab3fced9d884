"""Words that end an answer end it at the same place, however the answer comes in pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.pipelines.serve.chat import _until

letters = st.text("abc", max_size=12)


def expected(text, stops):
    for end in range(len(text) + 1):
        whole = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(whole)], True
    return text, False


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(letters, max_size=8), stops=st.lists(st.text("abc", min_size=1), max_size=3))
def test_an_answer_ends_before_the_first_whole_word(pieces, stops):
    closed = []

    def source():
        try:
            yield from pieces
        finally:
            closed.append(True)

    said, until = [], _until(source(), stops)
    while True:
        try:
            said.append(next(until))
        except StopIteration as end:
            stopped = end.value
            break
    assert ("".join(said), stopped) == expected("".join(pieces), stops)
    assert closed == [True]


def test_an_answer_that_nobody_wants_is_closed():
    closed = []

    def source():
        try:
            while True:
                yield "a"
        finally:
            closed.append(True)

    until = _until(source(), ["zz"])
    next(until)
    until.close()
    assert closed == [True]
