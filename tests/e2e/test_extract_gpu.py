"""The job with its encoder on a device: the records of the CPU, from pinned memory, in batches."""

import pytest
import torch

from vidcomp.store import open_cache


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["partition", "tome", "uniform"])
def test_a_device_makes_the_records_of_the_cpu(extract, clips, tmp_path, method):
    for device in ("cpu", "cuda"):
        changes = ["--device", device, "--set", f"compress.stages=[{method}]"]
        run = extract(clips, "--out", tmp_path / device, *changes, isolation="process")
        assert run.code == 0, run.err
    cpu, cuda = (open_cache(tmp_path / device) for device in ("cpu", "cuda"))
    assert sorted(cpu.keys()) == sorted(cuda.keys())
    for key in cpu.keys():  # noqa: SIM118
        assert len(cpu[key]) == len(cuda[key]) == 20
        torch.testing.assert_close(cpu[key].positions, cuda[key].positions, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(cpu[key].tokens, cuda[key].tokens, atol=2e-2, rtol=2e-2)
