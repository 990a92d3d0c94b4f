"""The CPU kernels against PyTorch's own operations."""

import os
import subprocess
import sys

import pytest
import torch
from numba.core.codegen import get_host_cpu_features
from torch.nn.functional import batch_norm, conv1d, max_pool1d

from ncbook import kernels
from ncbook.kernels import batch_norm_relu, batch_norm_relu_plain, conv3, conv3_plain, linear, linear_plain, max_pool

# members, positions, batch, channels, out: every number of rows that a product leaves over, batches with and without a rest
SHAPES = [
    (1, 40, 128, 8, 8),
    (3, 40, 32, 6, 10),
    (2, 20, 5, 3, 4),
    (2, 10, 32, 16, 33),
    (2, 7, 16, 2, 1),
    (1, 1, 6, 1, 3),
    (1, 5, 48, 15, 5),
]


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def conv1d_by_member(x, weight):
    return torch.stack([conv1d(xs.permute(2, 0, 1), ws, padding=1).permute(1, 2, 0) for xs, ws in zip(x, weight)])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", [conv3, conv3_plain])
def test_conv3_and_its_gradients_equal_conv1d(shape, function):
    members, positions, batch, channels, out = shape
    x, weight, grad = tensors((members, channels, positions, batch), (members, out, channels, 3), (members, out, positions, batch))
    y, expected = function(x, weight), conv1d_by_member(x, weight)
    assert torch.allclose(y, expected, rtol=0, atol=1e-11)
    for ours, theirs in zip(torch.autograd.grad(y, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad)):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


def test_winograd_keeps_the_precision_of_float32():
    x, weight = tensors((2, 64, 40, 128), (2, 64, 64, 3))
    exact = conv1d_by_member(x, weight)
    error = (conv3(x.float(), weight.float()) - exact).abs().max() / exact.abs().max()
    assert error < 3e-6


def convolution_and_gradients():
    x, weight, grad = (t.detach().float() for t in tensors((2, 33, 7, 48), (2, 21, 33, 3), (2, 21, 7, 48)))
    y = conv3(x.requires_grad_(), weight.requires_grad_())
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


def test_the_width_of_the_registers_changes_no_digit(tmp_path):
    """Here the registers are the widest that this processor has; in the other process AVX-512 is hidden from the compiler."""
    program = (
        "import torch, test_kernels; from ncbook.vector import ROWS; assert ROWS == 6, 'the registers are wide here too'; "
        f"torch.save(test_kernels.convolution_and_gradients(), {str(tmp_path / 'narrow')!r})"
    )
    features = get_host_cpu_features().replace("+avx512", "-avx512")
    environment = os.environ | {"NUMBA_CPU_FEATURES": features, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    for ours, narrow in zip(convolution_and_gradients(), torch.load(tmp_path / "narrow")):
        assert torch.equal(ours, narrow)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", [batch_norm_relu, batch_norm_relu_plain])
def test_batch_norm_relu_equals_torch(shape, with_residual, function):
    members, positions, batch, channels, _ = shape
    full = (members, channels, positions, batch)
    x, residual, grad, weight, bias = tensors(full, full, full, (members, channels), (members, channels))
    inputs = (x, weight, bias, residual) if with_residual else (x, weight, bias)
    out, mean, var = function(*inputs)
    normalised = torch.stack([batch_norm(xs[None], None, None, w, b, training=True)[0] for xs, w, b in zip(x, weight, bias)])
    expected = torch.relu(normalised + residual if with_residual else normalised)
    assert torch.allclose(out, expected, rtol=0, atol=1e-11)
    assert torch.allclose(mean, x.mean((2, 3)), rtol=0, atol=1e-12)
    assert torch.allclose(var, x.var((2, 3), correction=0), rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(1, 40, 128, 8), (3, 2, 5, 3)], ids=str)
def test_max_pool_equals_torch_ties_included(shape, compiled, monkeypatch):
    members, positions, batch, channels = shape
    if not compiled:
        monkeypatch.setattr("ncbook.kernels._has_kernel", lambda x: False)
    x, grad = tensors((members, channels, positions, batch), (members, channels, positions // 2, batch))
    x = torch.relu(x.detach()).round(decimals=1).requires_grad_()  # many pairs are equal
    expected = max_pool1d(x.flatten(0, 1).movedim(-1, 1).flatten(0, 1), 2)
    expected = expected.unflatten(0, (members * channels, batch)).movedim(1, -1).unflatten(0, (members, channels))
    assert torch.equal(max_pool(x), expected)
    assert torch.equal(torch.autograd.grad(max_pool(x), x, grad)[0], torch.autograd.grad(expected, x, grad)[0])


def test_batch_norm_survives_a_large_mean_in_float32():
    """Sums of squares without a shift would lose all digits of the variance here."""
    x = tensors((2, 4, 40, 128), dtype=torch.float32)[0].detach() + 1e4
    weight, bias = torch.ones(2, 4), torch.zeros(2, 4)
    _, _, var = batch_norm_relu(x, weight, bias)
    assert torch.allclose(var, x.double().var((2, 3), correction=0).float(), rtol=1e-3)


def test_nan_is_not_hidden():
    x = torch.ones(1, 2, 8, 4)
    x[0, 0, 3, 1] = torch.nan
    assert conv3(x, torch.ones(1, 2, 2, 3)).isnan().any()
    out, _, _ = batch_norm_relu(x, torch.ones(1, 2), torch.zeros(1, 2))
    assert out[:, 0].isnan().all() and not out[:, 1].isnan().any()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("function", [linear, linear_plain])
def test_linear_maps_and_their_gradients_equal_torch(function, members, with_bias, monkeypatch):
    calls, onednn = [], kernels._ONEDNN
    monkeypatch.setattr(kernels, "_ONEDNN_IS_FASTER", True)
    if onednn:
        monkeypatch.setattr(kernels, "_ONEDNN", lambda *arguments: calls.append(1) or onednn(*arguments))
    points, weight, bias, grad = tensors((members, 150, 7), (members, 130, 150), (members, 130), (members, 7, 130))
    inputs = [points, weight, bias] if with_bias else [points, weight]
    single = [t.detach().float().requires_grad_() for t in inputs]
    y = function(single[0].mT, *single[1:])
    assert len(calls) == (members if onednn and function is linear else 0)
    expected = torch.stack([torch.nn.functional.linear(x.mT, *rest) for x, *rest in zip(*inputs)])
    assert torch.allclose(y.double(), expected, rtol=0, atol=1e-4)
    for slope in (grad, torch.ones(()).double().expand(expected.shape)):  # the latter as from a sum, one number in memory
        found = torch.autograd.grad(y, single, slope.float(), retain_graph=True)
        for ours, theirs in zip(found, torch.autograd.grad(expected, inputs, slope, retain_graph=True), strict=True):
            assert torch.allclose(ours.double(), theirs, rtol=0, atol=1e-4)
