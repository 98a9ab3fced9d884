"""What there is to do, found without decoding, and without looking at a file twice."""

import pytest

from vidcomp.config import load_recipe
from vidcomp.pipelines.extraction import planning
from vidcomp.pipelines.extraction.planning import make_plan
from vidcomp.pipelines.extraction.records import ErrorLog, ErrorRecord
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.inputs import Item, source_id
from vidcomp.store import SourceId

RECIPE = load_recipe("embedded", [])


@pytest.mark.parametrize("content", [False, True])
def test_a_file_of_many_ranges_is_looked_at_once(tmp_path, monkeypatch, content):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 100)
    items = [
        Item(key=f"{name}@{i}-{i + 1}", path=str(tmp_path / name), start_s=i, end_s=i + 1)
        for i in range(700)
        for name in "abc"
    ]
    looked = []

    def look(path, *, content):
        looked.append(path)
        return source_id(path, content=content)

    monkeypatch.setattr(planning, "source_id", look)
    plan = make_plan(items, tmp_path / "cache", RECIPE, Options(content_identity=content))
    assert sorted(looked) == [str(tmp_path / name) for name in "abc"]
    assert [item.key for item in plan.todo] == [item.key for item in items]
    for item in plan.todo:
        assert item.source == SourceId.of_file(item.path, content=content)


def test_an_identity_that_is_known_is_kept(tmp_path):
    known = SourceId(size=1, mtime_ns=2)
    item = Item(key="a", path=str(tmp_path / "gone"), source=known)
    assert make_plan([item], tmp_path / "cache", RECIPE, Options()).todo == [item]


def test_what_failed_is_tried_again_if_asked_or_if_its_file_changed(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"damaged")
    item = Item(key="a", path=str(path), rows=3)
    known = SourceId.of_file(path)
    record = ErrorRecord(
        key="a",
        path=str(path),
        stage="decode",
        error="DecodeError",
        message="damaged",
        source={"size": known.size, "mtime_ns": known.mtime_ns, "content": ""},
        fingerprint="f",
        details="long",
    )
    ErrorLog(tmp_path / "cache").add(record)

    def counts(**options):
        plan = make_plan([item], tmp_path / "cache", RECIPE, Options(**options))
        return plan.counts()

    assert counts() == {
        "rows": 3,
        "todo": 0,
        "cached": 0,
        "failed_before": 3,
        "duplicates": 2,
    }
    assert counts(retry_failed=True)["todo"] == 3
    assert counts(overwrite=True)["todo"] == 3
    path.write_bytes(b"another file")
    assert counts()["todo"] == 3
