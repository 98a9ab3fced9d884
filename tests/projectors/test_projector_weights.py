"""Where weights come from: seeds, state dicts, files."""

import hashlib
from pathlib import Path

import pytest
import torch
from projector_cases import CASES, dense, make
from safetensors.torch import save_file

from vidcomp.config import Recipe
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.projectors.base import Projector
from vidcomp.types import Grid

every_case = pytest.mark.parametrize("case", CASES)

REFERENCE = {
    "linear": {"weight", "bias"},
    "mlp": {f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")},
    "deco": {f"mlp_projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")},
    "deco_grid": {"mlp_projector.0.weight", "mlp_projector.0.bias"},
    "perceiver_frames": {
        *("latents", "media_pos_emb", "norm.weight", "norm.bias", "output.weight", "output.bias"),
        *(f"layers.0.0.to_{n}.weight" for n in ("q", "kv", "out")),
        *(f"layers.0.0.norm_{n}.{k}" for n in ("media", "latents") for k in ("weight", "bias")),
        *("layers.0.1.0.weight", "layers.0.1.0.bias"),
        *("layers.0.1.1.weight", "layers.0.1.3.weight"),
    },
}
"""Names of the original checkpoints, in full."""


def reference_state(projector: Projector) -> dict[str, torch.Tensor]:
    """The weights under the names that the originals use."""
    own = projector.state_dict()
    names = projector.original_names()
    return {names[n]: t for n, t in own.items()}


def same_weights(a: Projector, b: Projector) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@every_case
def test_a_seed_decides_fresh_weights_and_leaves_the_global_state(case: str) -> None:
    before = torch.get_rng_state()
    first = make(case, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    assert same_weights(first, make(case, seed=3))
    assert not same_weights(first, make(case, seed=4))


@every_case
def test_both_kinds_of_names_load(case: str) -> None:
    trained = make(case, seed=1)
    for state in (reference_state(trained), trained.state_dict()):
        assert same_weights(trained, make(case, seed=2).load_reference(state))


@pytest.mark.parametrize("case", REFERENCE)
def test_names_are_those_of_the_original_checkpoint(case: str) -> None:
    expected = {n.replace("media_pos_emb", "media_time_embs") for n in REFERENCE[case]}
    assert set(reference_state(make(case))) == expected
    trained = make(case, seed=1)
    state = reference_state(trained)
    state = {n.replace("media_time_embs", "media_pos_emb"): t for n, t in state.items()}
    assert same_weights(trained, make(case, seed=2).load_reference(state))


def test_an_mlp_loads_by_the_names_of_transformers() -> None:
    trained = make("mlp", seed=1)
    state = {f"linear_{i + 1}.weight": trained.layers[2 * i].weight for i in range(3)}
    state |= {f"linear_{i + 1}.bias": trained.layers[2 * i].bias for i in range(3)}
    assert same_weights(trained, make("mlp", seed=2).load_reference(state))


@every_case
def test_all_that_does_not_fit_is_named_in_one_sentence(case: str) -> None:
    projector = make(case, seed=1)
    before = {n: t.clone() for n, t in projector.state_dict().items()}
    state = reference_state(make(case, seed=2))
    *lost, bent = sorted(state)[-2:]  # a single matrix can only be bent
    size = list(state[bent].shape)
    for name in lost:
        del state[name]
    state[bent] = torch.zeros(7, 7, 7)
    state["stranger"] = torch.zeros(1)
    with pytest.raises(ShapeError) as caught:
        projector.load_reference(state)
    message = str(caught.value)
    assert all(f"missing {name};" in message for name in lost)
    assert "unexpected stranger;" in message
    assert f"wrong {bent} is [7, 7, 7] instead of {size}" in message
    assert "\n" not in message
    assert all(torch.equal(t, before[n]) for n, t in projector.state_dict().items())


@every_case
def test_weights_load_from_a_file_whose_hash_is_kept(case: str, tmp_path: Path) -> None:
    trained = make(case, seed=1)
    path = tmp_path / "weights.safetensors"
    save_file({f"model.{n}": t for n, t in reference_state(trained).items()}, path)
    loaded = make(case, weights=str(path), weights_prefix="model.")
    assert same_weights(trained, loaded)
    assert loaded.weights_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert trained.weights_hash == ""
    video = dense(Grid(2, 4, 4))
    assert torch.equal(trained(video).tokens, loaded(video).tokens)


def test_other_entries_of_a_whole_checkpoint_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "llava.safetensors"
    trained = make("mlp", seed=1)
    state = {f"model.mm_projector.{n}": t for n, t in reference_state(trained).items()}
    save_file({**state, "model.embed_tokens.weight": torch.zeros(3, 3)}, path)
    loaded = make("mlp", weights=str(path), weights_prefix="model.mm_projector.")
    assert same_weights(trained, loaded)
    with pytest.raises(ShapeError, match=r"unexpected model\.embed_tokens\.weight"):
        make("mlp", weights=str(path))


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such\.safetensors' is no file"):
        make("linear", weights=str(tmp_path / "no-such.safetensors"))
    with pytest.raises(ConfigError, match="is no file"):
        make("linear", weights=str(tmp_path))
    pickle = tmp_path / "mm_projector.bin"
    pickle.write_bytes(b"PK\x03\x04 not safetensors")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        make("linear", weights=str(pickle))
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match=r"no name that starts with 'model\.', only weight"):
        make("linear", weights=str(path), weights_prefix="model.")


def test_weights_of_another_type_are_converted() -> None:
    trained = make("mlp", seed=1)
    state = {n: t.half() for n, t in reference_state(trained).items()}
    loaded = make("mlp", seed=2).load_reference(state)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert torch.equal(loaded.layers[0].weight, trained.layers[0].weight.half().float())


def test_where_weights_lie_is_not_part_of_a_recipes_identity() -> None:
    name, _ = CASES["linear"]
    settings = type(make("linear", weights=None).config)
    assert settings.name == name
    assert settings.locations() == {"weights"}
    assert "project" in Recipe.model_fields
