import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidcomp.encode import weights
from vidcomp.encode.hf import Hf
from vidcomp.encode.weights import convert_checkpoint, find_checkpoint
from vidcomp.errors import ConfigError


def test_the_hash_is_of_contents_and_names_not_of_places(tiny, tmp_path: Path):
    original = find_checkpoint(tiny("vit"))
    copy = tmp_path / "elsewhere"
    shutil.copytree(original.folder, copy)
    assert find_checkpoint(str(copy)).content_hash() == original.content_hash()
    for name in ("config.json", "preprocessor_config.json"):
        before = (copy / name).read_text()
        (copy / name).write_text(before + " ")
        assert find_checkpoint(str(copy)).content_hash() != original.content_hash()
        (copy / name).write_text(before)
    (copy / "README.md").write_text("not a weight")
    assert find_checkpoint(str(copy)).content_hash() == original.content_hash()
    state = load_file(copy / "model.safetensors")
    name = next(iter(state))
    save_file({**state, name: state[name] + 1e-3}, copy / "model.safetensors", {"format": "pt"})
    assert find_checkpoint(str(copy)).content_hash() != original.content_hash()


def test_large_files_in_the_hubs_cache_are_hashed_already(tmp_path: Path, tiny):
    """The cache links names to files that are called by their sha256."""
    plain = find_checkpoint(tiny("vit"))
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    shutil.copytree(plain.folder, snapshot)
    blob = blobs / weights._file_hash(plain.weights[0])
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert find_checkpoint(str(snapshot)).content_hash() == plain.content_hash()
    with blob.open("r+b") as file:  # shows that the bytes were not read again
        file.truncate(10)
    assert find_checkpoint(str(snapshot)).content_hash() == plain.content_hash()


def test_sharded_weights_load_and_a_lost_shard_is_named(own_copy, tiny):
    folder = own_copy("vit")
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, keys in parts.items():
        save_file({k: state[k] for k in keys}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: f for f, keys in parts.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert [p.name for p in find_checkpoint(str(folder)).weights] == sorted(parts)
    one, two = Hf(model=str(folder)).build(), Hf(model=tiny("vit")).build()
    from tiny_models import random_frames

    frames = random_frames(1, 32, 32)
    assert torch.equal(one(frames).tokens, two(frames).tokens)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="model-00002-of-00002"):
        find_checkpoint(str(folder))


def test_a_pickle_is_not_read_but_can_be_converted(own_copy):
    folder = own_copy("vit")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "kept")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="convert_checkpoint"):
        Hf(model=str(folder)).build()
    convert_checkpoint(folder / "pytorch_model.bin", folder)
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[k], state[k]) for k in state)
    Hf(model=str(folder)).build()


def test_state_dicts_are_found_below_the_usual_names_and_tied_weights_survive(tmp_path: Path):
    shared = torch.ones(2, 3)
    state = {"a": shared, "b": shared, "c": shared.T, "step": 3}
    torch.save({"model_state": state, "epoch": 1}, tmp_path / "x.pyth")
    written = load_file(convert_checkpoint(tmp_path / "x.pyth", tmp_path / "new"))
    assert set(written) == {"a", "b", "c"}
    assert torch.equal(written["c"], shared.T)


def test_checkpoints_that_would_run_code_are_not_opened(tmp_path: Path):
    torch.save({"model_state": Path("x")}, tmp_path / "evil.bin")
    with pytest.raises(ConfigError, match="more than tensors"):
        convert_checkpoint(tmp_path / "evil.bin", tmp_path)
    torch.save([1, 2], tmp_path / "empty.bin")
    with pytest.raises(ConfigError, match="no state dict"):
        convert_checkpoint(tmp_path / "empty.bin", tmp_path)


def test_offline_and_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="hf download nobody/nothing") as caught:
        Hf(model="nobody/nothing", revision="v2").build()
    message = str(caught.value)
    assert "\n" not in message
    assert "'v2'" in message


@pytest.mark.parametrize("name", ["./nowhere", "/not/here", "a/b/c", "~/nope"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(name: str):
    with pytest.raises(ConfigError, match="no folder"):
        find_checkpoint(name)


def test_broken_folders_say_what_is_wrong(own_copy):
    folder = own_copy("vit")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        Hf(model=str(folder)).build()
    (folder / "config.json").write_text(json.dumps({"model_type": "never-heard-of"}))
    with pytest.raises(ConfigError, match="never-heard-of"):
        Hf(model=str(folder)).build()
    (folder / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(ConfigError, match="belong together"):
        Hf(model=str(folder)).build()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Hf(model=str(folder)).build()
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        Hf(model=str(folder)).build()


def test_weights_of_another_model_are_refused_not_made_up(own_copy, tiny):
    folder = own_copy("vit")
    shutil.copy(Path(tiny("dinov3")) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ConfigError, match="lack"):
        Hf(model=str(folder)).build()


def test_code_from_a_checkpoint_is_never_run(own_copy):
    folder = own_copy("vit")
    data = json.loads((folder / "config.json").read_text())
    data |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(data))
    (folder / "mine.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Hf(model=str(folder)).build()
