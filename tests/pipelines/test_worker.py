"""Items in, receipts out: what a device or a file does wrong is told, and costs nothing else."""

import os
import threading
import time
from contextlib import closing

import pytest
import torch
from bad_clips import unending
from clips import moving_square, write_clip

from vidcomp.api import Prepared, prepare
from vidcomp.config import Recipe
from vidcomp.encode.base import Encoder
from vidcomp.errors import ConfigError, DecodeError, MissingExtraError, VidcompError
from vidcomp.pipelines.extraction import engine as engine_module
from vidcomp.pipelines.extraction import worker as worker_module
from vidcomp.pipelines.extraction.records import ErrorLog
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.worker import Worker
from vidcomp.pipelines.inputs import expand
from vidcomp.store import open_cache, verify
from vidcomp.store.storage import open_storage

RECIPE = Recipe(
    sample={"name": "uniform", "num_frames": 8},
    encode={"name": "dct", "resize": {"mode": "stretch", "height": 56, "width": 56}},
    compress={"budget": {"tokens": 20}, "stages": [{"name": "uniform"}]},
)
QUICK = Options(workers=2, isolation="thread")
CLIPS = 8


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Eight clips; the one with the key 3.mp4 is white."""
    folder = tmp_path_factory.mktemp("worker")
    for i in range(CLIPS):
        pixels = moving_square(6 + i, seed=i)
        write_clip(folder / f"{i}.mp4", pixels * 0 + 255 if i == 3 else pixels)
    return expand([str(folder)])


@pytest.fixture(scope="module")
def whole(items, tmp_path_factory):
    """The records of a run on a device without faults."""
    out = tmp_path_factory.mktemp("whole") / "cache"
    with Worker(open_storage(out), RECIPE, QUICK) as worker:
        assert {r.status for r in worker.run(items)} == {"ok"}
    return open_cache(out)


class Device(Encoder):
    """A real encoder on a device that has faults; ``check`` raises what is wrong with a pass."""

    def __init__(self, inner, check):
        self.inner, self.check = inner, check
        self.config, self.resize, self.dim = inner.config, inner.resize, inner.dim
        self.batch_size = 64

    def grid(self, num_frames, height, width):
        return self.inner.grid(num_frames, height, width)

    def valid(self, frames):
        return self.inner.valid(frames)

    def many(self, batch, keep=None):
        total = sum(map(len, batch))
        self.check(min(total, self.batch_size), batch)
        return self.inner.many(batch, keep)


@pytest.fixture
def device(monkeypatch):
    """Makes workers prepare their recipe for a device with such a check."""

    def use(check):
        def prepare_for_device(*args, **kwargs):
            plain = prepare(*args, **kwargs)
            return Prepared(
                recipe=plain.recipe,
                encoder=Device(plain.encoder, check),
                pipeline=plain.pipeline,
                projector=None,
            )

        monkeypatch.setattr(worker_module, "prepare", prepare_for_device)

    return use


def work(out, items, options=QUICK):
    with Worker(open_storage(out), RECIPE, options) as worker:
        return list(worker.run(items))


def assert_records(out, whole, keys):
    cache = open_cache(out)
    assert sorted(cache.keys()) == sorted(keys)
    for key in keys:
        torch.testing.assert_close(cache[key].tokens, whole[key].tokens, atol=1e-5, rtol=1e-2)
        assert torch.equal(cache[key].positions, whole[key].positions)
    assert verify(out).ok


@pytest.mark.parametrize("room", [1, 5, 20])
def test_a_device_with_little_memory_gets_less_at_once(items, whole, tmp_path, device, room):
    full, calls = [], []

    def check(num_frames, batch):
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.5)  # the readers get ahead, so that batches are large
        if num_frames > room:
            full.append(num_frames)
            raise torch.OutOfMemoryError("CUDA out of memory")

    device(check)
    receipts = work(tmp_path / "cache", items)
    assert [r.status for r in receipts] == ["ok"] * CLIPS
    assert_records(tmp_path / "cache", whole, whole.keys())
    assert 1 <= len(full) <= 7  # 64 frames halved down to one; then it knows


def test_a_video_that_no_memory_is_enough_for_is_blamed_alone(items, whole, tmp_path, device):
    def check(num_frames, batch):
        if any(frames.data.min() > 200 for frames in batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    device(check)
    receipts = {r.key: r for r in work(tmp_path / "cache", items)}
    assert {key for key, r in receipts.items() if r.status == "failed"} == {"3.mp4"}
    assert (receipts["3.mp4"].stage, receipts["3.mp4"].error) == ("encode", "OutOfMemoryError")
    assert_records(tmp_path / "cache", whole, set(whole.keys()) - {"3.mp4"})
    assert [record.key for record in ErrorLog(tmp_path / "cache")] == ["3.mp4"]


def test_a_device_that_fails_ends_the_run_and_loses_nothing(items, whole, tmp_path, device):
    calls = []

    def check(num_frames, batch):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device(check)
    one_at_a_time = Options(workers=1, isolation="thread", batch_frames=1)
    seen = []
    with (
        pytest.raises(VidcompError, match="the device has failed"),
        Worker(open_storage(tmp_path / "cache"), RECIPE, one_at_a_time) as worker,
    ):
        seen.extend(worker.run(items))
    kept = set(open_cache(tmp_path / "cache").keys())
    assert 1 <= len(kept) < CLIPS
    assert not list(ErrorLog(tmp_path / "cache"))  # no video is to blame
    device(lambda num_frames, batch: None)
    again = work(tmp_path / "cache", items)
    assert {r.key for r in again if r.status == "cached"} == kept
    assert_records(tmp_path / "cache", whole, whole.keys())


def test_what_a_run_has_begun_is_finished_and_the_rest_not_begun(items, whole, tmp_path):
    begun = []

    def listed():
        for item in items:
            begun.append(item.key)
            yield item

    with Worker(open_storage(tmp_path / "cache"), RECIPE, QUICK) as worker:
        with closing(worker.run(listed())) as receipts:
            keys = [next(receipts).key]
            worker.drain()
            keys += [r.key for r in receipts]
        assert worker.known() == []
    assert sorted(keys) == sorted(begun)
    assert_records(tmp_path / "cache", whole, keys)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_what_hangs_when_the_grace_is_over_is_dropped(
    items, whole, tmp_path, monkeypatch, isolation
):
    if isolation == "process":
        try:
            hanging = expand([str(unending(tmp_path / "hangs.mkv"))])
        except OSError:
            pytest.skip("files cannot be as large here as the one that hangs")
    else:
        hanging, over = expand([str(write_clip(tmp_path / "hangs.mkv", moving_square(6)))]), []
        read, ended = engine_module.stream_frames, threading.Event()

        def hang(request):
            if "hangs" in request.path:
                ended.wait(2)
                over.append(1)
            yield from read(request)

        monkeypatch.setattr(engine_module, "stream_frames", hang)
    options = Options(workers=2, isolation=isolation, grace_s=0.3)
    with Worker(open_storage(tmp_path / "cache"), RECIPE, options) as worker:
        with closing(worker.run([*hanging, *items])) as receipts:
            keys = [next(receipts).key for _ in range(CLIPS)]
            worker.drain()
            started = time.monotonic()
            keys += [r.key for r in receipts]
        if isolation == "process":
            assert time.monotonic() - started < 5
    if isolation == "thread":
        ended.set()
        assert len(over) <= 1
    assert_records(tmp_path / "cache", whole, whole.keys())
    assert set(keys) == set(whole.keys())


def test_records_that_came_since_the_plan_are_not_made_again(items, whole, tmp_path):
    work(tmp_path / "cache", items[:3])
    receipts = work(tmp_path / "cache", items)
    assert sorted(r.status for r in receipts) == ["cached"] * 3 + ["ok"] * 5
    overwrite = Options(workers=1, isolation="thread", overwrite=True)
    assert {r.status for r in work(tmp_path / "cache", items[:2], overwrite)} == {"ok"}
    assert_records(tmp_path / "cache", whole, whole.keys())


def test_the_first_failure_can_end_the_run(items, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad = expand([str(tmp_path / "bad.mp4")])
    options = Options(workers=1, isolation="thread", on_error="raise")
    with pytest.raises(DecodeError, match=r"bad\.mp4"):
        work(tmp_path / "cache", [*items[:1], *bad, *items[1:]], options)


@pytest.mark.parametrize("kind", [ConfigError, MissingExtraError])
def test_wrong_settings_are_no_fault_of_the_files(items, tmp_path, monkeypatch, kind):
    def refuse(request):
        raise kind("nothing can work with these settings: change them")
        yield

    monkeypatch.setattr(engine_module, "stream_frames", refuse)
    with pytest.raises(kind):
        work(tmp_path / "cache", items)
    assert not list(ErrorLog(tmp_path / "cache"))


def test_settings_that_fit_some_files_only_are_errors_of_the_others(items, tmp_path, monkeypatch):
    read = engine_module.stream_frames

    def refuse(request):
        if request.path.endswith("7.mp4"):
            raise ConfigError("the range does not fit this file: leave it out")
        yield from read(request)

    monkeypatch.setattr(engine_module, "stream_frames", refuse)
    options = Options(workers=1, isolation="thread")
    receipts = work(tmp_path / "cache", items, options)
    assert [r.key for r in receipts if r.status == "failed"] == ["7.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="looks for its child processes")
def test_a_worker_leaves_no_process_and_no_thread(items, whole, tmp_path):
    before = set(threading.enumerate())
    options = Options(workers=2, isolation="process", recycle_after=3)
    with Worker(open_storage(tmp_path / "cache"), RECIPE, options) as worker:
        processes = [reader._process._process for reader in worker._engine._readers]
        assert {r.status for r in worker.run(items)} == {"ok"}
        processes += [reader._process._process for reader in worker._engine._readers]
    assert all(process.poll() is not None for process in processes)
    assert len({process.pid for process in processes}) > 2  # and was replaced by a fresh one
    assert set(threading.enumerate()) <= before
    assert_records(tmp_path / "cache", whole, whole.keys())
