"""What users ask for, what actors need, and what is said when that cannot be."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vidcomp import errors
from vidcomp.errors import BudgetError, ConfigError, StoreStaleError, VidcompError
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.cluster.messages import Trouble
from vidcomp.pipelines.cluster.needs import Needs, resolve
from vidcomp.pipelines.extraction.ray_options import ray_settings
from vidcomp.pipelines.extraction.run_options import Options, RayOptions

NOTHING = dict.fromkeys(
    ("ray_address", "ray_actors", "ray_cpus", "ray_gpus", "ray_runtime_env"), None
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (1, None)), ("4", (4, 4)), ("2:16", (2, 16)), ("3:", (3, None)), ("1:1", (1, 1))],
)
def test_numbers_of_actors(text, expected):
    found = ray_settings(NOTHING | {"engine": "ray", "ray_actors": text})
    assert (found.min_actors, found.max_actors) == expected


@pytest.mark.parametrize("text", ["0", "x", "4:2", ":", ":3", "1:2:3", "-1", "0:4", ""])
def test_what_is_no_number_of_actors(text):
    with pytest.raises(ConfigError, match="--ray-actors"):
        ray_settings(NOTHING | {"engine": "ray", "ray_actors": text})


def test_options_of_ray_without_ray_are_refused():
    for name, value in {"ray_address": "auto", "ray_cpus": 2.0}.items():
        with pytest.raises(ConfigError, match="add --engine ray"):
            ray_settings(NOTHING | {"engine": "local", name: value})
    assert ray_settings(NOTHING | {"engine": "local"}) == RayOptions()


def nodes(*pairs):
    return [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in pairs]


def needs(options, *pairs, can_grow=True, **ray):
    options = replace(options, ray=RayOptions(**ray))
    return resolve(options, nodes(*pairs), can_grow=can_grow)


def test_an_actor_takes_its_share_of_a_node():
    cpu, gpu = Options(), Options(device="cuda")
    assert needs(cpu, (4, 0), (2, 0)) == Needs(workers=4, cpus=4.0, gpus=0.0)
    assert needs(cpu, (64, 8)) == Needs(workers=8, cpus=8.0, gpus=0.0)
    assert needs(gpu, (16, 4), (64, 0)) == Needs(workers=4, cpus=4.0, gpus=1.0)
    assert needs(gpu, (16, 4), gpus=0.5) == Needs(workers=2, cpus=2.0, gpus=0.5)
    assert needs(Options(workers=3), (16, 4), cpus=1.5) == Needs(workers=3, cpus=1.5, gpus=0.0)
    assert needs(cpu, (16, 0), cpus=2) == Needs(workers=2, cpus=2, gpus=0.0)
    assert needs(cpu, (8, 0), can_grow=False, min_actors=4).workers == 2
    assert needs(gpu) == Needs(workers=4, cpus=4.0, gpus=1.0)  # nodes are yet to come


@given(
    cpus=st.integers(1, 256), gpus=st.integers(0, 16), device=st.sampled_from(["cpu", "cuda"]),
    least=st.integers(1, 300),
)  # fmt: skip
def test_what_nobody_asked_for_fits_the_node_that_there_is(cpus, gpus, device, least):
    if device == "cuda" and not gpus:
        return
    found = needs(Options(device=device), (cpus, gpus), can_grow=False, min_actors=least)
    assert found.fit({"CPU": cpus, "GPU": gpus})
    assert found.workers >= 1


def test_what_cannot_be_had_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"needs 4 CPUs and this machine has 2 CPUs"):
        needs(Options(workers=4), (2, 0), can_grow=False)
    with pytest.raises(ConfigError, match="say 'cuda'"):
        needs(Options(device="cuda:1"), (8, 2))
    with pytest.raises(ConfigError, match="leave --ray-gpus out"):
        needs(Options(device="cuda"), (8, 2), gpus=0.0)
    with pytest.raises(ConfigError, match="1 GPUs"):
        needs(Options(device="cuda"), (8, 0), can_grow=False)


def test_errors_of_hosts_keep_their_class_so_that_exit_codes_hold():
    for name in errors.__all__:
        kind = getattr(errors, name)
        trouble = Trouble.of(kind("what was wanted"))
        assert type(trouble.error()) is kind
        assert str(trouble.error()) == "what was wanted"
        assert trouble.is_everywhere == (kind in (BudgetError, StoreStaleError))
    foreign = Trouble.of(ZeroDivisionError("a b"))
    assert type(foreign.error()) is VidcompError
    assert str(foreign.error()) == "ZeroDivisionError: a b"


@pytest.fixture
def extract(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")

    def call(*args):
        words = ["extract", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "c"), "-q", *args]
        done = CliRunner().invoke(main, words)
        assert isinstance(done.exception, SystemExit | None), done.exception
        return SimpleNamespace(code=done.exit_code, err=done.stderr)

    return call


def test_without_ray_the_extra_is_named(extract, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = extract("--engine", "ray")
    assert done.code == 2
    assert "pip install 'vidcomp[ray]'" in done.err
    assert done.err.count("\n") == 1


def test_wrong_options_are_one_line(extract, tmp_path):
    assert "--ray-actors" in extract("--engine", "ray", "--ray-actors", "5:2").err
    assert "add --engine ray" in extract("--ray-address", "auto").err
    assert extract("--engine", "spark").code == 2
    pytest.importorskip("ray")
    path = tmp_path / "env.yaml"
    path.write_text("- no mapping")
    done = extract("--engine", "ray", "--ray-runtime-env", str(path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "runtime environment" in done.err
    done = extract("--engine", "ray", "--ray-runtime-env", str(tmp_path / "none.yaml"))
    assert "cannot be read" in done.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:x"])
def test_an_address_where_nobody_listens_is_refused_at_once(extract, address):
    pytest.importorskip("ray")
    done = extract("--engine", "ray", "--ray-address", address)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"no Ray cluster at '{address}'" in done.err


def test_a_dry_run_needs_no_ray(extract, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = extract("--engine", "ray", "--dry-run")
    assert done.code == 0


def test_options_can_be_sent_and_told():
    import pickle
    from dataclasses import asdict

    options = Options(engine="ray", ray=RayOptions(address="auto", max_actors=3))
    assert pickle.loads(pickle.dumps(options)) == options
    assert json.loads(json.dumps(asdict(options)))["ray"]["max_actors"] == 3
