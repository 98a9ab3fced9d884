"""Whatever happens, each row of the inputs has one outcome, and the counts add up."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fake_runner import FakeRunner, failed, ok
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.config import load_recipe
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.records import ErrorLog, ErrorRecord
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.summary import Receipt, Summary
from vidcomp.pipelines.inputs import Item

RECIPE = load_recipe("embedded", [])
COUNTED = {"ok": "done", "damaged": "done", "cached": "cached", "failed": "failed"}


def run(items, tell, **options):
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(tell))
        return extract(items, Path(folder) / "cache", RECIPE, options=Options(**options))


def item(name, rows=1):
    return Item(key=name, path=f"/nowhere/{name}", rows=rows)


def receipt(one, status, replaces=""):
    message = "is damaged" if status == "failed" else ""
    return Receipt(key=one.key, path=one.path, status=status, message=message, replaces=replaces)


def adds_up(summary):
    counts = summary.counts()
    assert min(counts.values()) >= 0
    assert counts.pop("planned") == sum(counts.values())


outcomes = st.lists(
    st.tuples(
        st.integers(1, 4),  # rows
        st.sampled_from(["ok", "damaged", "cached", "failed", None]),
        st.integers(1, 3),  # how often it is told
    ),
    min_size=1,
    max_size=12,
)


@given(outcomes)
@settings(max_examples=40, deadline=None)
def test_each_row_has_one_outcome_however_often_it_is_told(plan):
    items = [item(str(i), rows) for i, (rows, _, _) in enumerate(plan)]

    def tell(_):
        for one, (_, status, times) in zip(items, plan, strict=True):
            if status is not None:
                yield from [receipt(one, status)] * times

    summary = run(items, tell)
    adds_up(summary)
    assert summary.planned == sum(rows for rows, _, _ in plan)
    for status in ("done", "cached", "failed"):
        rows = sum(rows for rows, told, _ in plan if told and COUNTED[told] == status)
        assert getattr(summary, status) == rows
    assert summary.missing == [str(i) for i, (_, told, _) in enumerate(plan) if told is None]
    has = {told for _, told, _ in plan}
    assert summary.exit_code == (1 if None in has else 3 if "failed" in has else 0)


def test_a_receipt_may_take_an_earlier_one_back():
    items = [item("a", 2), item("b"), item("c")]

    def tell(_):
        yield from (receipt(one, "ok") for one in items)
        yield receipt(items[0], "failed", replaces="ok")
        yield receipt(items[1], "lost", replaces="ok")

    summary = run(items, tell)
    adds_up(summary)
    assert (summary.done, summary.failed, summary.lost) == (1, 2, 1)
    assert summary.missing == ["b"]
    assert summary.exit_code == 1


def test_items_that_come_up_on_the_way_are_counted():
    def tell(items):
        for one in items:
            yield ok(item(f"{one.key}@0-60"))
            yield ok(one)

    summary = run([item("camera")], tell)
    adds_up(summary)
    assert (summary.planned, summary.done) == (2, 2)


def test_a_failure_of_this_run_of_which_no_receipt_came_is_found_in_the_store(tmp_path):
    record = {"stage": "decode", "error": "DecodeError", "message": "damaged", "fingerprint": "f"}

    def tell(_):
        log = ErrorLog(tmp_path)
        for key, of in (("a", "this"), ("b", "earlier")):
            path = f"/nowhere/{key}"
            log.add(ErrorRecord(key=key, path=path, source=None, run=of, **record))
        yield from ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(tell))
        options = Options(run_id="this", retry_failed=True)
        summary = extract([item("a"), item("b")], tmp_path, RECIPE, options=options)
    adds_up(summary)
    assert summary.failed == 1
    assert summary.missing == ["b"]


@pytest.mark.parametrize(
    ("limits", "num_begun"),
    [
        ({"max_failures": 0}, 1),
        ({"max_failures": 4}, 5),
        ({"max_failure_share": 0.1}, 20),  # judged no earlier
        ({"max_failure_share": 0.25}, 26),
        ({"max_failure_share": 1.0}, 100),
        ({"max_failures": 100}, 100),
    ],
)
def test_too_many_failures_end_a_run(limits, num_begun):
    begun = []

    def tell(items):
        for one in items:
            begun.append(one)
            yield failed(one)

    summary = run([item(str(i)) for i in range(100)], tell, **limits)
    adds_up(summary)
    assert len(begun) == num_begun
    assert summary.stopped == (num_begun < 100)
    assert summary.exit_code == (4 if num_begun < 100 else 3)


def test_a_share_of_few_rows_is_judged_when_all_are_over():
    def tell(items):
        for i, one in enumerate(items):
            yield failed(one) if i == 0 else ok(one)

    for share, code in ((0.3, 3), (0.2, 4)):
        items = [item(str(i)) for i in range(4)]
        summary = run(items, tell, max_failure_share=share)
        adds_up(summary)
        assert (summary.done, summary.failed, summary.exit_code) == (3, 1, code)


def test_heavy_files_are_begun_first_and_the_rest_as_given(tmp_path):
    sizes = [3, 900, 1, 2, 0, 1000, 3]
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}.mp4").write_bytes(b"x" * size)
    items = [Item(key=str(i), path=str(tmp_path / f"{i}.mp4")) for i in range(len(sizes))]
    order = []

    def tell(begun):
        for one in begun:
            order.append(one.key)
            yield ok(one)

    run(items, tell, workers=2)
    assert order == ["5", "1", "0", "2", "3", "4", "6"]


def test_a_summary_keeps_few_of_many_failures():
    summary = Summary(store="c", recipe="r", planned=5000)
    for i in range(5000):
        summary.add(failed(item(str(i))))
    assert summary.failed == 5000
    assert len(summary.failures) == 1000
    assert len(summary.rows) == 60
