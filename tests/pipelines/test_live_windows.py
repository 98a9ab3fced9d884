"""Windows of sources without an end: each is a record, and none is lost or written over."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from clips import moving_square, write_clip
from live_sources import grows, piped, sends

from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError, DecodeError, StoreMissError
from vidcomp.pipelines.extraction import engine as engine_module
from vidcomp.pipelines.extraction import live as live_module
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.live import Closed, Opened, follow, live_items, resumed
from vidcomp.pipelines.extraction.records import ErrorLog
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.windows import parse_window, split, windows_of
from vidcomp.pipelines.extraction.worker import Worker
from vidcomp.pipelines.inputs import Item
from vidcomp.sample.decode import DecodeRequest, Live
from vidcomp.sample.fps import Fps
from vidcomp.store import TokenCache
from vidcomp.store.storage import open_storage
from vidcomp.types import Frames, Source

SETTINGS = [
    "sample={name: fps, fps: 2}",
    "encode={name: dct, size: 28}",
    "compress={budget: {tokens: 6}, stages: [partition], stream: true}",
]
RECIPE = load_recipe("embedded", SETTINGS)
THREADS = Options(isolation="thread", stall_s=2.0, grace_s=5.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "clip.ts"
    return write_clip(path, moving_square(95, height=32, width=48), g=12)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(live_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(live_module, "_IDLE_S", 0.5)
    monkeypatch.setattr(live_module, "_TRIES", 3)


def chunk(start_s, stop_s, first_index=0, num=2):
    pts_s = torch.linspace(start_s, stop_s, num + 1, dtype=torch.float64)[:-1]
    return Frames(
        data=torch.zeros((num, 3, 4, 4), dtype=torch.uint8),
        pts_s=pts_s,
        duration_s=torch.full((num,), (stop_s - start_s) / num, dtype=torch.float64),
        first_index=first_index,
        source=Source(path="x", duration_s=stop_s),
    )


def steps_of(attempts, *, is_over=lambda: False, address="tcp://me:secret@x:1", **live):
    """What follows from attempts, each a list of chunks and maybe an error at the end."""
    (item,) = live_items([address], 10.0)
    request = DecodeRequest(path=item.path, sampler=Fps(), live=Live(window_s=10.0))
    asked, attempts = [], iter(attempts)

    def read(request):
        asked.append(request)
        for step in next(attempts, [OSError("refused by tcp://me:secret@x:1")]):
            if isinstance(step, Exception):
                raise step
            yield step

    steps, error = [], None
    try:
        for step in follow(item, request, read, is_over):
            steps.append(step)
    except DecodeError as problem:
        error = problem
    return steps, error, asked


def ranges(steps):
    return [(s.item.start_s, s.item.end_s, bool(s.damage)) for s in steps if isinstance(s, Closed)]


def test_windows_follow_each_other():
    chunks = [chunk(0, 5), chunk(5, 10, 2), chunk(9.5, 20.5), chunk(19.9, 24)]
    steps, error, asked = steps_of([chunks])
    assert error is None
    assert ranges(steps) == [(0, 10, False), (10, 20, False), (20, 24, False)]
    kinds = "".join(type(step).__name__[0] for step in steps)
    assert kinds == "OFFCOFCOFC"
    keys = [step.item.key for step in steps if isinstance(step, Closed)]
    assert len({key.partition("@")[0] for key in keys}) == 1
    assert keys[0].startswith("x:1/2")
    assert keys[0].endswith("Z@0-10")
    opened = [step.request for step in steps if isinstance(step, Opened)]
    assert [(r.start_s, r.end_s) for r in opened] == [(0, 10), (10, 20), (20, 30)]
    assert asked[0].path == "tcp://me:secret@x:1"


def test_a_lost_connection_ends_a_window_and_begins_another():
    attempts = [
        [chunk(0, 10), chunk(10, 14.2503), OSError("gone")],
        [OSError("not yet")],
        [chunk(16.5, 19, 0), OSError("gone again")],
        [chunk(20.25, 23)],
    ]
    steps, error, asked = steps_of(attempts)
    assert error is None
    expected = [(0, 10, False), (10, 14.251, True), (16.5, 19, True), (20.25, 23, False)]
    assert ranges(steps) == expected
    origins = [request.live.origin_s for request in asked]
    assert origins == pytest.approx([0, 14.2503, 14.2503, 19], abs=0.1)
    keys = [step.item.key for step in steps if isinstance(step, Closed)]
    assert len(set(keys)) == 4


def test_a_source_that_stays_away_is_given_up_without_its_password():
    steps, error, asked = steps_of([[chunk(0, 3), OSError("gone")]])
    assert ranges(steps) == [(0, 3, True)]
    assert len(asked) == 3
    assert "3 tries in a row" in str(error)
    assert "secret" not in str(error)
    assert "secret" not in repr([s.item.key for s in steps if not isinstance(s, Frames)])


def test_success_counts_anew():
    attempts = itertools.chain.from_iterable(
        [[chunk(k, k + 1), OSError("gone")], [OSError("no")]] for k in range(10, 20, 2)
    )
    steps, error, _ = steps_of(attempts)
    assert len(ranges(steps)) == 5
    assert error is not None


def test_settings_are_not_tried_again():
    with pytest.raises(ConfigError, match="wrong"):
        steps_of([[ConfigError("wrong")]])


@pytest.mark.parametrize("problem", [None, OSError("its process was ended")])
def test_a_run_that_ends_closes_the_window_it_is_in(problem):
    over = []
    chunks = [chunk(0, 4), chunk(4, 6, 2)]

    def attempt():
        yield chunks[0]
        over.append(True)
        if problem is not None:
            raise problem
        yield chunks[1]
        raise AssertionError("asked for more")

    steps, error, _ = steps_of([attempt()], is_over=lambda: bool(over))
    assert error is None
    assert ranges(steps) == [(0, 4 if problem else 6, False)]


def test_one_item_a_source(tmp_path):
    (tmp_path / "a.ts").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    inputs = [str(tmp_path / "a.ts"), str(tmp_path / "pipe"), "rtsp://u:p@cam/1", "new.ts"]
    items = live_items(inputs, 30.0)
    assert [item.key for item in items] == ["a.ts", "pipe", "cam/1", "new.ts"]
    assert [item.live.is_file for item in items] == [True, False, False, True]
    assert items[2].path == "rtsp://cam/1"
    for wrong in ([], [str(tmp_path)], ["-"], ["@list"], ["ftp://x/y"], ["a/x.ts", "b/x.ts"]):
        with pytest.raises(ConfigError):
            live_items(wrong, 30.0)


def test_a_growing_file_becomes_records_as_ranges_of_the_finished_one(clip, tmp_path):
    out = tmp_path / "cache"
    with grows(tmp_path / "rec.ts", clip.read_bytes(), 1.5):
        summary = extract(live_items([str(tmp_path / "rec.ts")], 2.0), out, RECIPE, options=THREADS)
    assert (summary.done, summary.lost, summary.exit_code) == (5, 0, 0)
    live = TokenCache(out)
    items = split([Item(key="rec.ts", path=str(tmp_path / "rec.ts"))], 2.0, THREADS)
    again = tmp_path / "ranges"
    assert extract(items, again, RECIPE, options=THREADS).done == 5
    finished = TokenCache(again)
    assert sorted(live) == sorted(finished)
    assert sorted(live)[-1] == "rec.ts@8-9.5"
    for key in live:
        assert torch.equal(live[key].tokens, finished[key].tokens), key
        assert torch.equal(live[key].spans, finished[key].spans)
        assert len(live[key]) == 6
        assert (live.meta(key)["start_s"], live.meta(key)["seconds"]) == (
            finished.meta(key)["start_s"],
            pytest.approx(finished.meta(key)["seconds"], abs=2e-3),
        )


def test_a_file_goes_on_behind_what_is_there_and_another_never_takes_its_place(clip, tmp_path):
    path, out, data = tmp_path / "rec.ts", tmp_path / "cache", clip.read_bytes()
    items = live_items([str(path)], 2.0)
    path.write_bytes(data[: len(data) // 2])
    assert extract(items, out, RECIPE, options=THREADS).exit_code == 0
    before = {key: TokenCache(out)[key].tokens for key in TokenCache(out)}
    path.write_bytes(data)
    extract(items, out, RECIPE, options=THREADS)
    cache = TokenCache(out)
    ends = sorted(tuple(map(float, key.partition("@")[2].split("-"))) for key in cache)
    assert ends[0][0] == 0
    assert ends[-1][1] == 9.5
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    assert all(torch.equal(cache[key].tokens, tokens) for key, tokens in before.items())
    num = len(cache)
    assert extract(items, out, RECIPE, options=THREADS).done == 0

    write_clip(path, moving_square(40, height=32, width=48, seed=5), g=12)
    assert extract(items, out, RECIPE, options=THREADS).done == 2
    new = set(TokenCache(out)) - set(cache)
    assert len(TokenCache(out)) == num + 2
    assert all(key.startswith("rec.ts/2") for key in new)
    (again,) = [resumed(item, TokenCache(out)) for item in items]
    assert again.live.resume_s == 4.0


def test_several_sources_at_once_and_one_that_is_not_there(clip, tmp_path):
    out, data = tmp_path / "cache", clip.read_bytes()
    with piped(tmp_path / "pipe", data), sends(data, data[: len(data) // 2]) as address:
        inputs = [str(tmp_path / "pipe"), address, "tcp://127.0.0.1:9"]
        summary = extract(live_items(inputs, 4.0), out, RECIPE, options=THREADS)
    name = address.partition("://")[2]
    keys = sorted(TokenCache(out))
    assert sum(key.startswith("pipe/") for key in keys) == 3
    assert sum(key.startswith(name) for key in keys) >= 4
    assert summary.failed == 2
    assert {record.key for record in ErrorLog(out)} == {name, "127.0.0.1:9"}
    damaged = [key for key in keys if TokenCache(out).meta(key)["source"]["damage"]]
    assert damaged
    assert all(key.startswith(name) for key in damaged)
    with sends(data) as other, piped(tmp_path / "pipe2", data):
        again = live_items([str(tmp_path / "pipe2")], 4.0)
        assert extract(again, out, RECIPE, options=THREADS).exit_code == 0
        extract(live_items([other], 4.0), out, RECIPE, options=THREADS)
    assert set(keys) < set(TokenCache(out))


def test_windows_can_be_read_while_the_source_goes_on(clip, tmp_path):
    out, data, seen = tmp_path / "cache", clip.read_bytes(), []
    with grows(tmp_path / "rec.ts", data, 4.0):
        items = live_items([str(tmp_path / "rec.ts")], 1.0)
        worker = threading.Thread(
            target=extract, args=(items, out, RECIPE), kwargs={"options": THREADS}
        )
        worker.start()
        while worker.is_alive() and len(seen) < 3:
            time.sleep(0.1)
            with contextlib.suppress(StoreMissError):
                seen = sorted(TokenCache(out))
        assert worker.is_alive()
        worker.join()
    assert len(seen) >= 3


def test_a_source_that_sends_nothing_more_does_not_hold_up_a_run_that_ends(
    clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine_module, "_LINGER_S", 0.5)
    out, options = tmp_path / "cache", Options(isolation="process", stall_s=60, grace_s=30)
    first = (clip.read_bytes()[:-20_000], clip.read_bytes()[-20_000:])
    with sends(first[0], linger_s=15.0) as address:
        items = live_items([address], 2.0)
        worker = Worker(open_storage(out), RECIPE, options, most=1)
        receipts = []
        with worker:
            for receipt in worker.run(items):
                receipts.append(receipt)
                if len(receipts) == 1:
                    worker.drain()
                    started = time.monotonic()
        assert time.monotonic() - started < 12
    assert [r.message or r.status for r in receipts] == ["ok"] * len(receipts)
    assert sorted(TokenCache(out)) == sorted(receipt.key for receipt in receipts)


def test_samplers_and_engines_that_cannot_follow_are_refused_at_once(tmp_path):
    items = live_items(["tcp://127.0.0.1:9"], 4.0)
    with pytest.raises(ConfigError, match="live source"):
        extract(items, tmp_path / "cache", load_recipe("embedded"), options=THREADS)
    with pytest.raises(ConfigError, match="on this machine"):
        extract(items, tmp_path / "cache", RECIPE, options=Options(engine="ray"))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_closes_the_window_and_commits_it(clip, tmp_path, number):
    out, path = tmp_path / "cache", tmp_path / "rec.ts"
    command = [sys.executable, "-m", "vidcomp.pipelines.cli", "extract", "--live", str(path)]
    command += ["--window", "3", "--out", str(out), "--json"]
    command += [word for text in SETTINGS for word in ("--set", text)]
    keys, patient_until = [], time.monotonic() + 60
    # The clip takes as long as it lasts, and pauses in its second window.
    with grows(path, clip.read_bytes(), 9.5, pause_at=0.5, until=lambda: bool(keys)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        while not keys and time.monotonic() < patient_until:
            time.sleep(0.2)
            with contextlib.suppress(StoreMissError):
                keys = sorted(TokenCache(out))
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    keys = sorted(TokenCache(out))
    assert keys[0] == "rec.ts@0-3"
    assert len(keys) == 2
    assert keys[1].startswith("rec.ts@3-")
    assert not TokenCache(out).meta(keys[1])["source"]["damage"]


def test_files_are_split_by_their_length(clip, tmp_path):
    (tmp_path / "broken.ts").write_bytes(b"no video")
    items = [
        Item(key="clip.ts", path=str(clip)),
        Item(key="broken.ts", path=str(tmp_path / "broken.ts")),
        Item(key="clip.ts@3-7.5", path=str(clip), start_s=3.0, end_s=7.5),
    ]
    for isolation in ("thread", "process"):
        found = split(items, 4.0, Options(isolation=isolation, workers=2))
        assert [item.key for item in found] == [
            "clip.ts@0-4",
            "clip.ts@4-8",
            "clip.ts@8-9.5",
            "broken.ts",
            "clip.ts@3-7",
            "clip.ts@7-7.5",
        ]
    out = tmp_path / "cache"
    summary = extract(found, out, RECIPE, options=THREADS)
    assert (summary.done, summary.failed) == (5, 1)
    assert extract(found, out, RECIPE, options=THREADS).cached == 5


def test_windows_cover_a_video():
    for length_s, window_s in itertools.product(
        [0.04, 1, 59.9996, 60, 60.0333333, 3600], [1, 7, 60]
    ):
        windows = windows_of(Item(key="a", path="a"), length_s, window_s)
        assert windows[0].start_s == 0
        assert windows[-1].end_s == pytest.approx(length_s, abs=1.1e-3)
        assert windows[-1].end_s >= length_s - 1e-6
        assert all(a.end_s == b.start_s for a, b in itertools.pairwise(windows))
        assert len({item.key for item in windows}) == len(windows)
    assert parse_window("10m") == 600
    with pytest.raises(ConfigError, match="window"):
        parse_window("0")
