"""The script's table and exit codes, on recorded outputs and on spoiled ones."""

import subprocess
import sys
from pathlib import Path

import parity
import pytest
import torch
from parity_checks import CHECKS
from parity_checks.golden import read_golden
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("method", CHECKS)
def test_recorded_outputs_are_met(
    method: str, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity.main([str(golden / f"{method}.safetensors")]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", "max", "abs", "diff", "verdict"]
    name, difference, verdict = line.split()
    assert (name, verdict) == (method, "pass")
    assert float(difference) < 1e-4


@pytest.mark.parametrize("method", CHECKS)
def test_every_spoiled_output_is_found(
    method: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, metadata = contents(golden / f"{method}.safetensors")
    path = tmp_path / "spoiled.safetensors"
    for name in [n for n in tensors if n.split(".")[0] == "output"]:
        original = tensors[name]
        spoiled = original.clone().flatten()
        if original.dtype == torch.bool:
            spoiled[-1] = ~spoiled[-1]
        elif original.is_floating_point():
            spoiled[-1] += 1e-2 * spoiled[-1].abs().clamp(min=1)
        else:
            spoiled[-1] += 1
        save_file({**tensors, name: spoiled.view(original.shape)}, path, metadata=metadata)
        assert parity.main([str(path)]) == 1, f"{name} was spoiled unseen"
        assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("method", CHECKS)
def test_other_inputs_do_not_pass(method: str, golden: Path, tmp_path: Path) -> None:
    tensors, metadata = contents(golden / f"{method}.safetensors")
    # Both the rows and the features: some methods do not mind the order of one of them.
    other = {
        n: t.roll(1, dims=-1).roll(1, dims=0) if n.startswith("input.") else t
        for n, t in tensors.items()
    }
    path = tmp_path / "other.safetensors"
    save_file(other, path, metadata=metadata)
    assert parity.main([str(path)]) == 1


def one_file(path: Path, tensors: dict[str, Tensor], **metadata: str) -> str:
    save_file(tensors, path, metadata=metadata or None)
    return str(path)


def test_a_method_that_is_not_built_is_said_and_fails_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one_file(tmp_path / "x.safetensors", {"output": torch.zeros(2)}, method="teleport")
    assert parity.main([path]) == 1
    assert "missing" in capsys.readouterr().out
    assert parity.main([path, "--allow-missing"]) == 0
    assert "not built yet" in capsys.readouterr().out


LINEAR = '{"mm_projector_type": "linear", "mm_hidden_size": 2, "hidden_size": 3}'


def linear_file(path: Path, **changed: Tensor) -> str:
    """A recording of a linear projector, with tensors changed or (if empty) left out."""
    weight, x = torch.randn(3, 2), torch.randn(1, 4, 2)
    tensors = {"weight.weight": weight, "weight.bias": torch.zeros(3), "input.x": x}
    tensors |= {"output": x @ weight.T, **changed}
    kept = {n: t.contiguous() for n, t in tensors.items() if t.numel()}
    return one_file(path, kept, method="llava_linear", config=LINEAR)


def test_what_is_wrong_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, none = tmp_path / "linear.safetensors", torch.zeros(0)
    assert parity.main([linear_file(path)]) == 0
    capsys.readouterr()
    cases = [
        ({"output": torch.zeros(1, 4, 7)}, "output is [4, 3] instead of [1, 4, 7]"),
        ({"output.more": torch.zeros(1)}, "output.more was not compared"),
        ({"output": none}, "has no output 'output'"),
        ({"input.x": none}, "has no input 'x'"),
        ({"weight.bias": none}, "missing bias"),
        ({"weight.scale": torch.zeros(1)}, "unexpected scale"),
    ]
    for changed, note in cases:
        assert parity.main([linear_file(path, **changed)]) == 1
        assert note in capsys.readouterr().out


def test_a_missing_setting_is_noted_and_other_files_still_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = one_file(
        tmp_path / "broken.safetensors",
        {"input.x": torch.zeros(1, 2, 2), "output": torch.zeros(1, 2, 3)},
        method="llava_linear",
        config="{}",
    )
    assert parity.main([broken, linear_file(tmp_path / "linear.safetensors")]) == 1
    _, first, second = capsys.readouterr().out.splitlines()
    assert "has no setting 'mm_hidden_size'" in first
    assert second.endswith("pass")


def test_nan_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "linear.safetensors"
    assert parity.main([linear_file(path, output=torch.full((1, 4, 3), torch.nan))]) == 1


def test_wrong_arguments_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not tensors")
    plain = one_file(tmp_path / "plain.safetensors", {"x": torch.zeros(1)})
    broken = one_file(tmp_path / "b.safetensors", {"x": torch.zeros(1)}, method="x", config="{")
    cases = [
        ([], "required"),
        ([str(tmp_path / "absent.safetensors")], "is no file"),
        ([str(tmp_path)], "is no file"),
        ([str(text)], "cannot be read"),
        ([plain], "does not name its method"),
        ([broken], "cannot be read"),
        (["--unknown", plain], "unrecognized"),
    ]
    for arguments, words in cases:
        with pytest.raises(SystemExit) as caught:
            parity.main(arguments)
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert len(captured.err.splitlines()) == 1
        assert not captured.out


def test_it_runs_as_a_command(tmp_path: Path) -> None:
    script = Path(parity.__file__)
    path = linear_file(tmp_path / "linear.safetensors")
    done = subprocess.run(
        [sys.executable, str(script), path], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "llava_linear" in done.stdout
    assert read_golden(path).method == "llava_linear"
