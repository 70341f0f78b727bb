"""The PyTorch operators on a GPU: the Triton kernels run behind them, eagerly and under torch.compile.

The kernels themselves are held against the definitions in `tests/conformance`, on the GPU where there is one.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no NVIDIA GPU that PyTorch can use", allow_module_level=True)

from edgetx.ops import gpu, group_attention, window_attention  # noqa: E402
from edgetx.ops.group_attention import GroupAttentionAttributes  # noqa: E402
from edgetx.ops.group_attention import triton_kernel as group_kernel  # noqa: E402
from edgetx.ops.window_attention import WindowAttentionAttributes  # noqa: E402
from edgetx.ops.window_attention import triton_kernel as window_kernel  # noqa: E402

SWIN = WindowAttentionAttributes(num_heads=3, head_size=32, window=(7, 7), shift=(3, 3), mask="region")


def windows(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 56, 56, 288), (3, 49, 49))
    return [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in shapes]


def groups() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, slots = 1000, 144
    q, k, v = (torch.randn((tokens, 128), generator=generator) for _ in range(3))
    order = torch.randperm(tokens, generator=generator)
    padded = torch.cat([order, torch.full((-tokens % slots,), -1)])
    inverse = torch.empty(tokens, dtype=torch.int32)
    inverse[order] = torch.arange(tokens, dtype=torch.int32)
    return [each.cuda() for each in (q, k, v, padded.view(-1, slots).int(), inverse)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_kernel_runs_behind_the_window_operator(dtype: torch.dtype, monkeypatch: Any) -> None:
    tensors = windows(dtype)
    called = []
    kernel = window_kernel.window_attention
    monkeypatch.setattr(window_kernel, "window_attention", lambda *a: called.append(1) or kernel(*a))
    given = window_attention.apply(SWIN, *tensors)
    assert called
    expected = window_attention.apply(SWIN, *(tensor.cpu().double() for tensor in tensors))
    allowed = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert float((given.cpu().double() - expected).abs().max()) <= allowed


def test_the_kernel_runs_behind_the_group_operator(monkeypatch: Any) -> None:
    tensors = groups()
    called = []
    kernel = group_kernel.group_attention
    monkeypatch.setattr(group_kernel, "group_attention", lambda *a: called.append(1) or kernel(*a))
    attributes = GroupAttentionAttributes(num_heads=8)
    given = group_attention.apply(attributes, *tensors)
    assert called
    wide = [each.cpu().double() if each.is_floating_point() else each.cpu() for each in tensors]
    assert float((given.cpu().double() - group_attention.apply(attributes, *wide)).abs().max()) <= 4e-6


def test_float64_falls_back_to_the_definition() -> None:
    tensors = [tensor.double() for tensor in windows(torch.float32)]
    assert gpu.why_not(tensors[0]) is not None
    expected = window_attention.apply(SWIN, *(tensor.cpu() for tensor in tensors))
    torch.testing.assert_close(window_attention.apply(SWIN, *tensors).cpu(), expected)


def test_torch_compile_keeps_the_operator() -> None:
    tensors = windows(torch.float16)
    compiled = torch.compile(lambda *each: window_attention.apply(SWIN, *each) * 2, fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), window_attention.apply(SWIN, *tensors) * 2)
