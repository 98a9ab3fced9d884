"""What a person types becomes the right list of items."""

import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.errors import ConfigError
from vidcomp.pipelines.inputs import Item, Manifest, expand, source_id


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "sub/c.webm", ".hidden/d.mp4", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def keys(items):
    return [item.key for item in items]


def test_a_folder_is_searched_and_keys_are_relative(folder):
    items = expand([str(folder)])
    assert keys(items) == ["a.MKV", "b.mp4", "sub/c.webm"]
    assert items[2].path == str(folder / "sub/c.webm")


def test_files_globs_urls_and_missing_files(folder):
    items = expand([str(folder / "*.mp4"), "http://x.org/v/a.mp4?b", str(folder / "gone.mp4")])
    assert keys(items) == ["b.mp4", "x.org/v/a.mp4?b", "gone.mp4"]
    assert keys(expand([str(folder / "**/*.webm")])) == ["c.webm"]


def test_lists_from_a_file_and_standard_input(folder, monkeypatch):
    lines = f"{folder}/b.mp4\n# a comment\n\n{folder}/a.MKV\n"
    (folder / "list.txt").write_text(lines)
    from_file = expand([f"@{folder}/list.txt"])
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert expand(["-"]) == from_file
    assert [item.path for item in from_file] == [f"{folder}/b.mp4", f"{folder}/a.MKV"]


def test_the_same_video_twice_is_done_once_and_counted_twice(folder):
    (item,) = expand([str(folder / "b.mp4")] * 2)
    assert item.rows == 2
    other = f"{folder}/sub/../b.mp4"
    assert [(i.key, i.rows) for i in expand([str(folder), str(folder / "b.mp4"), other])] == [
        ("a.MKV", 1),
        ("b.mp4", 3),
        ("sub/c.webm", 1),
    ]


@given(st.lists(st.sampled_from("abcde"), min_size=1), st.integers(1, 40))
def test_every_row_is_counted_once_and_a_limit_counts_rows(names, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("\n".join(names)))
        items = expand(["-"], limit=limit)
    kept = names[:limit]
    assert {i.key: i.rows for i in items} == {name: kept.count(name) for name in kept}
    assert [i.key for i in items] == list(dict.fromkeys(kept))


def test_ranges_of_one_video_are_different_items(folder):
    (folder / "m.csv").write_text("path,start,end\nb.mp4,0,1\nb.mp4,1,2\nb.mp4,0,1\n")
    items = expand([], manifest=Manifest(path=str(folder / "m.csv")))
    assert [(i.key, i.rows) for i in items] == [("b.mp4@0-1", 2), ("b.mp4@1-2", 1)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_told(folder, caplog):
    (folder / "sub").chmod(0)
    try:
        assert keys(expand([str(folder)])) == ["a.MKV", "b.mp4"]
        assert "left out the folder" in caplog.text
        with pytest.raises(ConfigError, match="cannot be read"):
            expand([str(folder / "sub")])
    finally:
        (folder / "sub").chmod(0o700)


def test_links_to_folders_are_not_followed_and_names_are_in_order(folder):
    (folder / "round").symlink_to(folder)
    (folder / "sub.mp4").write_bytes(b"x")
    (folder / "sub" / "z").mkdir()
    (folder / "sub" / "z" / "e.avi").write_bytes(b"x")
    assert keys(expand([str(folder)])) == ["a.MKV", "b.mp4", "sub/c.webm", "sub/z/e.avi", "sub.mp4"]


def test_two_videos_with_one_key_are_refused(folder):
    (folder / "sub/b.mp4").write_bytes(b"y")
    with pytest.raises(ConfigError, match=r"both be stored as 'b\.mp4'.*common folder"):
        expand([str(folder / "b.mp4"), str(folder / "sub/b.mp4")])


@pytest.mark.parametrize("inputs", [[], ["nothing/*.mp4"]])
def test_nothing_found_is_an_error(inputs):
    with pytest.raises(ConfigError, match="no videos found"):
        expand(inputs)


def test_a_range_becomes_part_of_the_key(folder):
    (item,) = expand([str(folder / "b.mp4")], start_s=1.5, end_s=3)
    assert item == Item(key="b.mp4@1.5-3", path=str(folder / "b.mp4"), start_s=1.5, end_s=3)
    assert keys(expand([str(folder / "b.mp4")], start_s=2)) == ["b.mp4@2-"]
    with pytest.raises(ConfigError, match="must end after it starts"):
        expand([str(folder / "b.mp4")], start_s=3, end_s=3)


MANIFESTS = {
    "m.csv": "path,id,start,end\nb.mp4,one,,\nb.mp4,two,1,2\n",
    "m.tsv": "path\tid\tstart\tend\nb.mp4\tone\t\t\nb.mp4\ttwo\t1\t2\n",
    "m.jsonl": "\n".join(
        json.dumps(row)
        for row in (
            {"path": "b.mp4", "id": "one"},
            {"path": "b.mp4", "id": "two", "start_s": 1, "end_s": 2.0},
        )
    ),
}


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_manifests_give_ids_and_several_ranges_of_a_video(folder, name):
    (folder / name).write_text(MANIFESTS[name])
    items = expand([], manifest=Manifest(path=str(folder / name), id_column="id"))
    path = str(folder / "b.mp4")
    assert items == [
        Item(key="one", path=path),
        Item(key="two@1-2", path=path, start_s=1.0, end_s=2.0),
    ]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("m.csv", "file\nb.mp4\n", {}, "has no 'path': it has"),
        ("m.csv", "path\nb.mp4\n", {"id_column": "id"}, "has no 'id'"),
        ("m.csv", "path,start\nb.mp4,soon\n", {}, "write seconds"),
        ("m.jsonl", "{", {}, "cannot be read"),
        ("m.xlsx", "", {}, "csv, tsv, jsonl or parquet"),
    ],
)
def test_a_wrong_manifest_is_one_sentence(folder, name, text, options, message):
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        expand([], manifest=Manifest(path=str(folder / name), **options))


def test_a_missing_list_or_manifest_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        expand([f"@{tmp_path}/gone.txt"])
    with pytest.raises(ConfigError, match="cannot be read"):
        expand([], manifest=Manifest(path=str(tmp_path / "gone.csv")))


def test_source_identity_sees_changes(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    first = source_id(str(path), content=True)
    assert first.matches(source_id(str(path)))
    path.write_bytes(b"other")
    assert not first.matches(source_id(str(path)))
    assert source_id(str(tmp_path / "gone")) is None
    assert source_id("http://x.org/a.mp4") is None
