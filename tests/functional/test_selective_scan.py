"""The selective scan against one token after another."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.state_space import slow_scan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidcomp.errors import ShapeError
from vidcomp.functional import scan_chunks
from vidcomp.functional.selective_scan import selective_scan

EXACT = {"atol": 1e-10, "rtol": 1e-9}
few = settings(deadline=None, max_examples=25)


def scene(
    *sizes: int, seed: int = 0, step: float = 1.0, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Random inputs of B sequences of L tokens, G groups of features, N states, by name."""
    b, length, groups, features, states = sizes
    dim, generator = groups * features, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {
        "u": normal(b, length, dim),
        "delta": normal(b, length, dim) * step,
        "a": -normal(dim, states).exp(),
        "b": normal(b, length, groups, states),
        "c": normal(b, length, groups, states),
        "d": normal(dim),
        "z": normal(b, length, dim),
        "bias": normal(dim),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in found.items()}


def ours(s: dict[str, Tensor]) -> Tensor:
    return selective_scan(
        s["u"],
        s["delta"],
        s["a"],
        s["b"],
        s["c"],
        s.get("d"),
        z_BLD=s.get("z"),
        delta_bias_D=s.get("bias"),
        delta_softplus=True,
    )


def slow(s: dict[str, Tensor]) -> Tensor:
    named = {name: s.get(name) for name in ("z", "bias")}
    return slow_scan(s["u"], s["delta"], s["a"], s["b"], s["c"], s.get("d"), **named, squeeze=True)


def gradients(function: Callable[[dict[str, Tensor]], Tensor], s: dict[str, Tensor]) -> Any:
    out = function(s)
    share = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return out, dict(
        zip(s, torch.autograd.grad((out * share).sum(), list(s.values())), strict=True)
    )


def assert_equal_to_slow(s: dict[str, Tensor], **tolerance: float) -> None:
    (out, grads), (expected, wanted) = gradients(ours, s), gradients(slow, s)
    torch.testing.assert_close(out, expected, **tolerance)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, wanted[name], **tolerance, msg=f"{name} differs")


@few
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 90, 3, 4, 4))),
    seed=st.integers(0, 999),
    without=st.sets(st.sampled_from(["d", "z", "bias"])),
)
def test_outputs_and_gradients_are_those_of_one_token_after_another(
    sizes: tuple[int, ...], seed: int, without: set[str]
) -> None:
    found = scene(*sizes, seed=seed)
    assert_equal_to_slow({n: t for n, t in found.items() if n not in without}, **EXACT)


def test_steps_are_taken_as_they_are_without_softplus() -> None:
    s = scene(2, 30, 1, 3, 2)
    step = s["delta"].detach().abs()
    out = selective_scan(s["u"], step, s["a"], s["b"], s["c"])
    torch.testing.assert_close(out, slow_scan(s["u"], step, s["a"], s["b"], s["c"]), **EXACT)


@pytest.mark.parametrize(("longest", "length"), [(4, 16), (4, 17), (8, 300), (64, 64 * 64 + 77)])
def test_states_are_handed_from_run_to_run(
    monkeypatch: pytest.MonkeyPatch, longest: int, length: int
) -> None:
    monkeypatch.setattr(scan_chunks, "_LONGEST", longest)
    s = scene(1, length, 1, 2, 2, step=0.1)
    # States that live long, or else no run would notice the one before.
    s["bias"] = torch.full((2,), -7.0, dtype=torch.float64, requires_grad=True)
    assert_equal_to_slow(s, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("block", [1, 1 << 7, 1 << 9, 1 << 11])
def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(scan_chunks, "_CACHED", block)
    monkeypatch.setattr(scan_chunks, "_NARROWEST", 2)
    assert_equal_to_slow(scene(3, 70, 3, 5, 2), **EXACT)


def test_all_is_taken_once_whatever_the_block() -> None:
    for total in range(30):
        for most in range(12):
            parts = scan_chunks._cut(total, most)
            taken = [i for part in parts for i in range(part.start, part.stop)]
            assert taken == list(range(total))
            assert all(part.stop - part.start <= max(most, 1) for part in parts)


@pytest.mark.parametrize("bias", [-30.0, 0.0, 8.0, 300.0])
def test_float32_holds_for_steps_of_any_length(bias: float) -> None:
    """Decays from none at all to all at once: exp(-300 * 16) is 0 in float32."""
    s = scene(1, 400, 1, 4, 16, seed=3)
    s["a"] = -torch.arange(1.0, 17).double().repeat(4, 1).requires_grad_()
    s["bias"] = torch.full((4,), bias, dtype=torch.float64, requires_grad=True)
    wide, grads = gradients(slow, s)
    single = {n: t.detach().float().requires_grad_() for n, t in s.items()}
    out, found = gradients(ours, single)
    pairs = {"out": (out, wide)} | {name: (found[name], grads[name]) for name in grads}
    for name, (mine, theirs) in pairs.items():
        assert mine.isfinite().all()
        scale = float(theirs.detach().abs().max()) + 1e-9
        assert float((mine.double() - theirs).detach().abs().max()) < 1e-4 * scale, name


def test_twenty_thousand_tokens_neither_drift_nor_overflow() -> None:
    length, keep = 20_000, 0.999
    one = torch.ones(1, length, 1)
    a = torch.tensor([[float(torch.tensor(keep, dtype=torch.float64).log())]])
    out = selective_scan(one, one, a, one[..., None], one[..., None])[0, :, 0]
    place = torch.arange(1, length + 1, dtype=torch.float64)
    expected = (1 - keep**place) / (1 - keep)
    torch.testing.assert_close(out.double(), expected, atol=0, rtol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    s = {n: t.detach().to(dtype).requires_grad_() for n, t in scene(2, 130, 2, 3, 4).items()}
    single = {n: t.detach().float().requires_grad_() for n, t in s.items()}
    (out, grads), (expected, wanted) = gradients(ours, s), gradients(ours, single)
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    for name, grad in grads.items():
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.float(), wanted[name], atol=0.15, rtol=0.05)


def test_inputs_of_mixed_types_are_computed_in_that_of_u() -> None:
    s = {n: t.detach() for n, t in scene(1, 40, 2, 3, 2).items()}
    for dtype, other in ((torch.float32, torch.float64), (torch.float64, torch.bfloat16)):
        mixed = {n: t if n == "u" else t.to(other).to(dtype) for n, t in s.items()}
        mixed["u"] = s["u"].to(dtype)
        expected = ours(mixed)
        got = ours({n: t if n == "u" else t.to(other) for n, t in mixed.items()})
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_autocast_changes_nothing() -> None:
    s = {n: t.detach().float().requires_grad_() for n, t in scene(2, 70, 2, 8, 8).items()}
    expected, wanted = gradients(ours, s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, grads = gradients(ours, s)
    assert torch.equal(out, expected)
    assert all(torch.equal(grads[name], wanted[name]) for name in s)


@few
@given(length=st.integers(2, 200), data=st.data())
def test_no_token_sees_what_follows_it(length: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, length - 1))
    s = {n: t.detach() for n, t in scene(1, length, 1, 3, 2).items()}
    other = dict(s)
    for name in ("u", "delta", "b", "c", "z"):
        other[name] = s[name].clone()
        other[name][:, place:] += 1
    first, second = ours(s)[:, :place], ours(other)[:, :place]
    assert torch.equal(first, second)
    assert not torch.equal(ours(s)[:, place], ours(other)[:, place])


def test_nothing_is_written_to_and_views_may_come_in() -> None:
    found = {n: t.detach() for n, t in scene(2, 50, 2, 3, 4).items()}
    views = {n: t.transpose(0, -1).contiguous().transpose(0, -1) for n, t in found.items()}
    before = {n: t.clone() for n, t in views.items()}
    torch.testing.assert_close(ours(views), ours(found), **EXACT)
    wide = found["u"][:, :, :1].expand(-1, -1, 6)  # features that are one in memory
    torch.testing.assert_close(
        ours(found | {"u": wide}), ours(found | {"u": wide.contiguous()}), **EXACT
    )
    assert all(torch.equal(before[n], t) for n, t in views.items())


def test_only_inputs_and_first_states_are_kept_for_gradients() -> None:
    b, length, groups, features, states = 1, 2304, 1, 8, 16
    s = scene(b, length, groups, features, states, dtype=torch.float32)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(s)
    all_states = b * length * groups * features * states * 4
    assert sum(kept.values()) < 0.8 * all_states
    without = {n: t.detach() for n, t in s.items()}
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours(without)
    assert not kept


class Counted(TorchDispatchMode):
    """Operations that were run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_steps_grow_as_the_root_of_the_tokens() -> None:
    counts = []
    for length in (64, 256, 1024, 4096):
        s = scene(1, length, 1, 2, 2, dtype=torch.float32)
        with Counted() as counted:
            ours(s).sum().backward()
        counts.append(counted.seen.total())
    assert all(longer < 2.2 * shorter for shorter, longer in pairwise(counts))


@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6), (1, 1, 6)])
def test_no_sequence_no_token_and_one_token(shape: tuple[int, int, int]) -> None:
    u = torch.randn(shape, requires_grad=True)
    read = torch.randn(*shape[:2], 3, 2)
    out = selective_scan(u, u, -torch.ones(6, 2), read, read)
    out.sum().backward()
    assert out.shape == shape
    assert u.grad is not None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("delta", (2, 5, 4)),
        ("a", (6, 3)),
        ("a", (4, 2)),
        ("b", (2, 5, 3, 1)),
        ("b", (2, 5, 4, 2)),
        ("b", (2, 5, 2)),
        ("c", (2, 4, 3, 2)),
        ("z", (1, 5, 6)),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(name: str, shape: tuple[int, ...]) -> None:
    s = scene(2, 5, 3, 2, 2) | {name: torch.zeros(shape)}
    with pytest.raises(ShapeError, match=r"wants delta and z of its shape.*got u \[2, 5, 6\]"):
        ours(s)
