"""The store's parsers take what was written, and refuse all else with an error of their own."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
import store_forge as forge
from fuzz import store_targets
from fuzz.store_targets import TARGETS, accepts, crashers, seeds
from hypothesis import example, given, settings
from hypothesis import strategies as st

SEEDS = seeds()


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_written_is_taken(target):
    assert all(accepts(target, data) for data in SEEDS[target])


@pytest.mark.parametrize(("target", "path"), crashers(), ids=lambda value: str(value)[-40:])
def test_what_was_found_once(target, path):
    accepts(target, path.read_bytes())


EDITS = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.sampled_from(["set", "insert", "delete", "copy"]),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"9" * 8]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def edited(data, edits):
    """Bytes after some small changes."""
    out = bytearray(data)
    for place, how, piece in edits:
        at = place % (len(out) + 1)
        if how == "set":
            out[at : at + len(piece)] = piece
        elif how == "insert":
            out[at:at] = piece
        elif how == "delete":
            del out[at : at + len(piece)]
        else:
            out[at:at] = out[place % 97 : place % 97 + 16]
    return bytes(out)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_bytes_raise_no_other_error(target):
    @given(number=st.integers(0, 9), edits=EDITS)
    @settings(deadline=None, max_examples=40)
    def law(number, edits):
        data = SEEDS[target]
        accepts(target, edited(data[number % len(data)], edits))

    law()


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_raise_no_other_error(target):
    @given(data=st.binary(max_size=400))
    @settings(deadline=None, max_examples=40)
    def law(data):
        accepts(target, data)

    law()


NUMBERS = st.integers(-3, 70) | st.integers(-(2**70), 2**70)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=4),
    max_leaves=12,
)


def changed(draw, value, at_most=2):
    """JSON values of which a few, anywhere, are others."""
    for _ in range(draw(st.integers(1, at_most))):
        value = _changed_once(draw, value)
    return value


def _changed_once(draw, value):
    if isinstance(value, list | dict) and value and draw(st.integers(0, 5)):
        names = range(len(value)) if isinstance(value, list) else sorted(value)
        name = draw(st.sampled_from(list(names)))
        out = value.copy()
        if isinstance(value, dict) and not draw(st.integers(0, 5)):
            del out[name]
        else:
            out[name] = _changed_once(draw, value[name])
        return out
    if isinstance(value, str) and value.startswith(("[", "{")) and draw(st.booleans()):
        with suppress(ValueError):  # JSON within JSON, if it still is
            return json.dumps(_changed_once(draw, json.loads(value)))
    return draw(VALUES)


def as_json(data):
    """The values of a seed that is text."""
    text, _, rest = data.partition(b"\0")
    return json.loads(text), rest


@st.composite
def headers(draw, target):
    """A seed of an index or a shard with other JSON in its header."""
    text, data = forge.split(draw(st.sampled_from(SEEDS[target])))
    value = changed(draw, json.loads(text))
    about = value.pop("__metadata__", None) if isinstance(value, dict) else None
    body = (
        json.dumps(about)[1:] if isinstance(about, dict) and about else f'"x":{json.dumps(about)}}}'
    )
    rest = json.dumps(value)[1:-1] if isinstance(value, dict) else ""
    text = f'{{"__metadata__":{{{body}' + (f",{rest}" if rest else "") + "}"
    text = text.replace('{"__metadata__":{"check": "', forge.PREFIX.decode(), 1)
    return forge.join(text.encode(), data)


@pytest.mark.parametrize("target", ["index", "shard"])
def test_headers_of_any_values(target):
    @given(data=headers(target))
    @settings(deadline=None, max_examples=100)
    def law(data):
        accepts(target, data)

    law()


@pytest.mark.parametrize("target", ["manifest", "record", "pin", "meta"])
def test_json_of_any_values(target):
    @given(data=st.data())
    @settings(deadline=None, max_examples=100)
    def law(data):
        seed = data.draw(st.sampled_from(SEEDS[target]))
        if target == "manifest":
            accepts(target, json.dumps(changed(data.draw, json.loads(b"{" + seed))).encode()[1:])
            return
        value, rest = as_json(seed)
        text = json.dumps(changed(data.draw, value)).encode()
        accepts(target, text + b"\0" + rest if target == "record" else text)

    law()


def test_lines_of_journals_of_any_values():
    @given(data=st.data())
    @settings(deadline=None, max_examples=80)
    def law(data):
        text, _, part = SEEDS["journals"][0].partition(b"\0\0\0\0")
        lines = [json.loads(line) for line in text.split(b"\n")]
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = changed(data.draw, lines[number])
        text = b"\n".join(json.dumps(line).encode() for line in lines)
        accepts("journals", text + b"\0\0\0\0" + part)

    law()


ROW = forge.default_columns(["k", 64, 64, 0, [0, 0, 0], 0, 0, "0" * 16, 1, 0, -1, 0, ""])
COLUMN = st.tuples(
    st.lists(NUMBERS, max_size=4), st.integers(0, 3), st.sampled_from(["<i8", "u1", "<u4"])
)


@given(
    columns=st.dictionaries(st.sampled_from(sorted(ROW)), COLUMN, min_size=1, max_size=3),
    num=st.integers(0, 3),
)
@settings(deadline=None, max_examples=100)
def test_columns_of_any_numbers(columns, num):
    values = {k: np.repeat(v, num, axis=0) for k, v in ROW.items()}
    for name, (numbers, times, kind) in columns.items():
        wrapped = np.array([n & 2**64 - 1 for n in numbers] * times, np.uint64)
        kind = values[name].dtype if len(numbers) % 2 else kind
        values[name] = wrapped.view("<i8").astype(kind)
    path = store_targets.FOLDER / f"{forge.NAME}.safetensors"
    lists = {"covers": [forge.NAME], "shards": [forge.NAME], "writers": [forge.NAME[:32]],
             "layouts": []}  # fmt: skip
    forge.write_index(path, "0" * 32, lists, values)
    accepts("index", path.read_bytes())


@given(
    kind=st.integers(0, 14), rows=st.integers(0, 300), columns=st.integers(0, 300),
    lengths=st.lists(NUMBERS, max_size=8), data=st.binary(max_size=64),
)  # fmt: skip
@example(kind=6, rows=1, columns=64, lengths=[2**64 - 8, 24], data=b"x" * 16)
@settings(deadline=None, max_examples=80)
def test_planes_of_any_lengths(kind, rows, columns, lengths, data):
    table = b"".join(struct.pack("<Q", n & 2**64 - 1) for n in lengths)
    accepts("planes", struct.pack("<BHH", kind, rows, columns) + table + data)
