"""The PyTorch operators on a GPU: the Triton kernels run behind them, eagerly and under torch.compile.

`tests/conformance` draws shapes and attributes at random, on the GPU where there is one.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_cases import DTYPES, allowed, as_tf32, check, expected, groups, windows  # noqa: E402

from edgetx.ops import gpu, group_attention, window_attention  # noqa: E402
from edgetx.ops.group_attention import triton_kernel as group_kernel  # noqa: E402
from edgetx.ops.window_attention import triton_kernel as window_kernel  # noqa: E402

WINDOWS = {
    "swin": {},
    "swinv2, padded": {"norm": "l2", "pad": "after_roll", "side": 8, "shift": 4, "size": (1, 20, 19)},
    "hat": {"head_size": 30, "heads": 6, "side": 16, "keys": 24, "shift": 0, "size": (1, 32, 48)},
    "24 x 24": {"head_size": 64, "heads": 2, "side": 24, "shift": 12, "size": (1, 48, 48)},
    "128 channels, odd values": {"head_size": 128, "value_size": 33, "heads": 2},
}
GROUPS = {
    "flatformer": {"slots": 69},
    "mossformer": {"activation": "relu2", "head_size": 128, "heads": 1, "slots": 256},
    "odd sizes": {"head_size": 13, "value_size": 7, "heads": 3, "slots": 33},
}


def _spy(kernel: Any, name: str, made: list[str]) -> Any:
    def spy(*arguments: Any) -> Any:
        made.append(name)
        return kernel(*arguments)

    return spy


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that ran."""
    made: list[str] = []
    for module, name in ((window_kernel, "window_attention"), (group_kernel, "group_attention")):
        monkeypatch.setattr(module, name, _spy(getattr(module, name), name, made))
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WINDOWS)
def test_window_operator(device: Any, called: list[str], name: str, dtype: torch.dtype) -> None:
    attributes, tensors = windows(dtype, **WINDOWS[name])
    given = window_attention.apply(attributes, *(tensor.to(device) for tensor in tensors))
    assert called == ["window_attention"]
    check(attributes, tensors, given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_group_operator(device: Any, called: list[str], name: str, dtype: torch.dtype) -> None:
    attributes, tensors = groups(dtype, **GROUPS[name])
    given = group_attention.apply(attributes, *(tensor.to(device) for tensor in tensors))
    assert called == ["group_attention"]
    check(attributes, tensors, given)


@pytest.mark.parametrize("kind", [windows, groups])
def test_products_of_float32_are_no_tf32(device: Any, kind: Any) -> None:
    """Whatever PyTorch allows its own products: the kernels' are exact enough to tell TF32 apart."""
    attributes, tensors = kind(torch.float32)
    most = tf32_tells(attributes, tensors)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        module = window_attention if kind is windows else group_attention
        given = module.apply(attributes, *(tensor.to(device) for tensor in tensors)).cpu().double()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert float((given - expected(attributes, tensors)).abs().max()) <= most


@pytest.mark.parametrize("kind", [windows, groups])
def test_tf32_would_be_seen(kind: Any) -> None:
    """Needs no GPU: with inputs rounded as TF32 products round them, the allowance is exceeded far."""
    tf32_tells(*kind(torch.float32))


def tf32_tells(attributes: Any, tensors: list[torch.Tensor]) -> float:
    """The allowance, after showing that TF32 would exceed it."""
    reference = expected(attributes, tensors)
    rounded = [as_tf32(tensor) if tensor.is_floating_point() else tensor for tensor in tensors]
    most = allowed(attributes, reference, torch.float32)
    assert float((expected(attributes, rounded) - reference).abs().max()) > 20 * most
    return most


def test_float64_falls_back_to_the_definition(device: Any, called: list[str]) -> None:
    attributes, tensors = windows(torch.float64)
    on_device = [tensor.to(device) for tensor in tensors]
    assert gpu.why_not(on_device[0]) is not None
    given = window_attention.apply(attributes, *on_device)
    assert not called
    torch.testing.assert_close(given.cpu(), expected(attributes, tensors))


@pytest.mark.parametrize("kind", [windows, groups])
def test_torch_compile_keeps_the_operator(device: Any, kind: Any) -> None:
    attributes, tensors = kind(torch.float16)
    on_device = [tensor.to(device) for tensor in tensors]
    module = window_attention if kind is windows else group_attention
    compiled = torch.compile(lambda *each: module.apply(attributes, *each) * 2, fullgraph=True)
    torch.testing.assert_close(compiled(*on_device), module.apply(attributes, *on_device) * 2)


def test_a_tensor_that_starts_anywhere(device: Any) -> None:
    """Triton compiles another kernel for an address that is no multiple of 16."""
    attributes, tensors = windows(torch.float16)
    storage = torch.empty(tensors[0].numel() + 1, dtype=torch.float16, device=device)
    shifted = storage[1:].view(tensors[0].shape).copy_(tensors[0])
    assert shifted.data_ptr() % 16
    check(
        attributes, tensors, window_attention.apply(attributes, shifted, *(t.to(device) for t in tensors[1:]))
    )
