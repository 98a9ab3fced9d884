"""Error records: what failed, why, where, and short enough for a hundred thousand."""

import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import DecodeError, VidcompError
from vidcomp.pipelines.extraction.history import reason
from vidcomp.pipelines.extraction.records import ErrorLog, ErrorRecord, cause_of, now
from vidcomp.store.remote import ObjectStorage
from vidcomp.store.storage import open_storage


def record(key, path=None, message="is damaged", **more):
    return ErrorRecord(
        key=key,
        path=path or f"/v/{key}",
        stage="decode",
        error="DecodeError",
        message=message,
        source=None,
        fingerprint="f",
        **more,
    )


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    if request.param == "folder":
        return open_storage(tmp_path)
    pytest.importorskip("obstore")
    return ObjectStorage(f"memory://{uuid.uuid4().hex}", staging=tmp_path)


def test_records_are_found_by_key_replaced_and_forgotten(place):
    log = ErrorLog(place)
    for i in range(40):
        log.add(record(f"v{i}", details="x" * 100))
    log.add(record("v3", attempts=2))
    again = ErrorLog(place)
    assert len(again) == 40
    assert sorted(r.key for r in again) == sorted(f"v{i}" for i in range(40))
    assert again.get("v3").attempts == 2
    assert again.get("v1").details == "x" * 100
    found = again.get_many(["v1", "nothing", "v3"])
    assert {k: r.attempts for k, r in found.items()} == {"v1": 1, "v3": 2}
    assert found["v1"].details == ""
    again.discard("v1")
    again.discard("nothing")
    assert ErrorLog(place).get("v1") is None
    assert ErrorLog(place).clear() == 39
    assert list(ErrorLog(place)) == []


def test_items_that_never_failed_cost_no_request(tmp_path, monkeypatch):
    log = ErrorLog(tmp_path)
    monkeypatch.setattr("vidcomp.store.local.LocalStorage.read", None)
    assert log.get("a") is None
    assert log.get_many(str(i) for i in range(1000)) == {}


def test_a_torn_record_only_means_that_the_item_is_tried_again(tmp_path):
    log = ErrorLog(tmp_path)
    log.add(record("a"))
    (path,) = (tmp_path / "errors").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert ErrorLog(tmp_path).get("a") is None
    assert list(ErrorLog(tmp_path)) == []


def raised(make):
    with pytest.raises(VidcompError) as caught:
        make()
    return caught.value


def test_the_cause_has_the_stack_of_a_child_and_the_signal_that_ended_it():
    def crash():
        try:
            raise OSError("the pipe is closed")
        except OSError as gone:
            error = DecodeError("a.mp4 cannot be decoded")
            error.exit_code = -11
            error.add_note("Fatal Python error: Segmentation fault\n  File x.py, line 7")
            raise error from gone

    cause = cause_of(raised(crash))
    assert (cause.exit_code, cause.signal) == (-11, "SIGSEGV")
    assert "Segmentation fault" in cause.details
    assert "the pipe is closed" in cause.details
    assert "Traceback" in cause.details


def test_a_process_that_hung_did_not_die_of_a_signal():
    error = DecodeError("no progress")
    error.exit_code, error.is_stalled = -9, True
    assert cause_of(error).exit_code is None
    assert cause_of(error).signal == ""


@pytest.mark.parametrize(("code", "name"), [(3, ""), (-250, ""), (-6, "SIGABRT")])
def test_exit_codes_are_found_in_what_caused_an_error(code, name):
    def fail():
        gone = OSError("gone")
        gone.exit_code = code
        raise VidcompError("it failed") from gone

    cause = cause_of(raised(fail))
    assert (cause.exit_code, cause.signal) == (code, name)


@given(st.text(max_size=20_000))
@settings(max_examples=20, deadline=None)
def test_details_are_short_and_end_with_the_error(text):
    error = VidcompError("a sentence")
    error.add_note(text)
    details = cause_of(error).details
    assert len(details) <= 4003
    assert details.endswith(text.strip()[-1000:]) or not text.strip()


def test_what_is_written_is_json_that_any_program_reads(tmp_path):
    ErrorLog(tmp_path).add(record("odd\udcff\n", time=now(), versions={"av": "18"}))
    (path,) = (tmp_path / "errors").iterdir()
    found = json.loads(path.read_bytes())
    assert found["key"] == "odd\udcff\n"
    assert found["time"].endswith("Z")


def test_a_reason_does_not_name_the_file():
    one = reason(record("a.mp4", "/v/a.mp4", "/v/a.mp4 is damaged at 3 s"))
    assert one == "decode: FILE is damaged at 3 s"
    assert reason(record("b.mp4", "b.mp4", "b.mp4 is damaged at 3 s")) == one
