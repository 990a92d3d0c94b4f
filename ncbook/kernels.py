"""The operations in which stacks spend their time: 1-D networks' width-3 convolution, batch norm with ReLU and max pooling; linear maps.

Activations of 1-D networks are `[members, channels, positions, batch]`: a channel of a member is one contiguous row, which stays in cache
from batch norm's first pass to its second, and the batch fills the vector registers however narrow the network is.

On the CPU the convolution is Winograd's F(4, 3): four outputs from six products instead of twelve (Lavin & Gray 2016, "Fast algorithms
for convolutional neural networks"; exact in real arithmetic), done tile by tile with the vector loops of `ncbook.vector`.
All constants are of the arrays' own type: numba computes float32 with whole numbers in float64.
`conv3`, `batch_norm_relu` and `max_pool` choose these for float32 and float64 tensors on the CPU, and plain torch operations otherwise.

On AMD's processors with AVX-512 `linear` takes float32 products over many inputs from oneDNN: there MKL, behind `torch.bmm`, takes a slower
way, half as fast on family 26; on one of Intel's it is the faster by a twentieth. No public function of torch leads to oneDNN in float32;
the one called here is that of torch's own compiler.
"""

import numba
import numpy as np
import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import max_pool2d, pad

from ncbook.vector import LINE_BYTES, ROWS, multiply, transform, transpose

# No flag here assumes that NaN does not occur: a diverged network must stay visible.
# The cache is renewed when this file changes, not when `ncbook.vector` does: after an edit there change this one, or delete __pycache__.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512" and get_host_cpu_name().startswith("znver")
_MANY = 128  # inputs from which a product takes longer than the calls of oneDNN, one for each member

_CHUNK = 1024  # elements summed in the tensor's own precision before they are added to a float64 total

# F(4, 3) maps six inputs d and three taps g to the four outputs Aᵀ[(G g) ∘ (Bᵀ d)].
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_BT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
_AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_OUTPUTS, _PRODUCTS = len(_AT), len(_BT)

# Axes: positions and lines of x `[members, channels, positions, lines, line]`; v and m begin with the products.
_input_by_line, _input_by_channel = transform(_BT, (2, 3), (0, 1), "source"), transform(_BT, (2, 3), (0, 2), "source")
_output_tile, _output_tile_adjoint = transform(_AT, (0, 1), (2, 1), "target"), transform(tuple(zip(*_AT)), (0, 1), (0, 1), "source")
_turn = transpose((1, 3), (2, 3))


def conv3(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each member's signals with its own filters: width 3, stride 1, zero padding 1, no bias.

    x: `[members, channels, positions, batch]`; weight: `[members, out, channels, 3]`, whose member slice is the weight of an
    `nn.Conv1d`. Returns `[members, out, positions, batch]`.
    """
    if not _has_kernel(x):
        return conv3_plain(x, weight)
    batch = x.shape[-1]
    missing = -batch % _line(x)
    return _Conv3.apply(pad(x, (0, missing)), weight)[..., :batch] if missing else _Conv3.apply(x, weight)


def conv3_plain(x: Tensor, weight: Tensor) -> Tensor:
    """`conv3` in plain torch operations, for any device and precision."""
    members, channels, positions, batch = x.shape
    padded = pad(x, (0, 0, 1, 1))
    columns = torch.cat([padded[:, :, tap : tap + positions] for tap in range(3)], dim=1)
    taps = weight.transpose(2, 3).reshape(members, -1, 3 * channels)
    return torch.bmm(taps, columns.view(members, 3 * channels, positions * batch)).view(members, -1, positions, batch)


def batch_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU(batch norm of x, plus residual) with the statistics of this batch, separately for each member and channel.

    x and residual: `[members, channels, positions, batch]`; weight and bias: `[members, channels]`.
    Returns the activations, and the mean and the biased variance that normalised them, `[members, channels]`, without gradients.
    """
    if _has_kernel(x):
        return _BatchNormReLU.apply(x, weight, bias, residual, eps)
    return batch_norm_relu_plain(x, weight, bias, residual, eps)


def batch_norm_relu_plain(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_norm_relu` in plain torch operations, for any device and precision."""
    var, mean = torch.var_mean(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=(2, 3), correction=0)
    scale = weight * torch.rsqrt(var + eps)
    out = x * scale[:, :, None, None] + (bias - mean * scale)[:, :, None, None]
    if residual is not None:
        out = out + residual
    return torch.relu(out).to(x.dtype), mean.detach(), var.detach()


def max_pool(x: Tensor) -> Tensor:
    """Maximum of neighbouring positions, an even number of them: `[members, channels, positions, batch]`, half as many positions after.

    Of two equal values the first takes the gradient.
    """
    return _MaxPool.apply(x) if _has_kernel(x) else max_pool2d(x, (2, 1))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each member's linear map. x: `[members, batch, inputs]`; weight: `[members, outputs, inputs]`; bias: `[members, outputs]`.

    Returns `[members, batch, outputs]`.
    """
    if _ONEDNN and _ONEDNN_IS_FASTER and weight.shape[2] >= _MANY and x.dtype == torch.float32 and _has_kernel(x):
        return _Linear.apply(x, weight, bias)
    return linear_plain(x, weight, bias)


def linear_plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` in plain torch operations, for any device and precision."""
    # Units first inside, so that the weights' gradient comes in their own layout and need not be copied.
    if bias is None:
        return torch.bmm(weight, x.mT).mT
    return torch.baddbmm(bias[:, :, None], weight, x.mT).mT


def _has_kernel(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def _line(x: Tensor) -> int:
    """How many elements make one line of `ncbook.vector`."""
    return LINE_BYTES // x.element_size()


def _lines(x: Tensor) -> np.ndarray:
    """`[members, channels, positions, lines, line]`."""
    return x.detach().numpy().reshape(*x.shape[:3], -1, _line(x))


class _Conv3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        members, _, positions, batch = x.shape
        x, y = x.contiguous(), x.new_empty(members, weight.shape[1], positions, batch)
        _convolve(_lines(x), weight.detach().numpy(), False, _lines(y))
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        lines, filters, grad_x, grad_weight = _lines(grad_y.contiguous()), weight.detach().numpy(), None, torch.empty_like(weight)
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            _convolve(lines, filters, True, _lines(grad_x))
        _filter_gradient(_lines(x), lines, grad_weight.numpy())
        return grad_x, grad_weight


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().contiguous()
        out, mean, var = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        ctx.has_residual, ctx.eps = residual is not None, eps
        # Without a residual the output stands in for it, unread: one signature, one compilation.
        added = residual.detach().contiguous() if ctx.has_residual else out
        arrays = (t.detach().numpy() for t in (weight, bias, mean, var))
        _normalise(_rows(x), ctx.has_residual, eps, *arrays, _rows(added), _rows(out))
        # With a residual ReLU's gate is read off the output; without, it is recomputed, which needs one array less.
        ctx.save_for_backward(x, out if ctx.has_residual else x, mean, var, weight, bias)
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor, *_) -> tuple[Tensor | None, ...]:
        x, out, mean, var, weight, bias = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        grad_residual = torch.empty_like(x) if ctx.has_residual else grad_x
        arrays = map(_rows, (grad_out.contiguous(), out, x, grad_x, grad_residual))
        channels = (t.detach().numpy() for t in (weight, bias, mean, var, grad_weight, grad_bias))
        _normalise_adjoint(ctx.has_residual, ctx.eps, *arrays, *channels)
        return grad_x, grad_weight, grad_bias, grad_residual if ctx.has_residual else None, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return torch.maximum(x[:, :, 0::2], x[:, :, 1::2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x, batch = torch.empty_like(x), x.shape[-1]
        pairs = (t.detach().numpy().reshape(-1, 2, batch) for t in (x, grad_x))
        _pool_adjoint(*pairs, grad_out.contiguous().numpy().reshape(-1, batch))
        return grad_x


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)
        return _products(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), grad = ctx.saved_tensors, grad.contiguous()
        grad_x = _products(grad, weight.mT) if ctx.needs_input_grad[0] else None
        return grad_x, _products(grad.mT, x.mT), grad.sum(1) if ctx.has_bias else None


def _products(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left `[members, rows, inner]` times the transposed of right `[members, columns, inner]`, plus bias `[members, columns]`."""
    biases = [None] * len(left) if bias is None else bias
    products = [_ONEDNN(a, b, c, "none", [], "") for a, b, c in zip(left, right, biases)]
    return products[0][None] if len(products) == 1 else torch.stack(products)


def _rows(x: Tensor) -> np.ndarray:
    """`[members, channels, positions * batch]`."""
    return x.detach().numpy().reshape(*x.shape[:2], -1)


@_jit
def _convolve(x, weight, adjoint, y):
    """y `[members, out, positions, lines, line]` = the convolution of x `[members, channels, ...]` with `weight`; or its adjoint, the
    convolution with the same filters turned round, from `out` to `channels`."""
    members, channels, positions, lines, line = x.shape
    out = y.shape[1]
    # one row more than channels keeps the parts of a tile out of each other's cache sets
    v, m = np.empty((_PRODUCTS, lines, channels + 1, line), x.dtype), np.empty((_PRODUCTS, ROWS, line), x.dtype)
    u, zeros, unused = np.empty((_PRODUCTS, out, channels), x.dtype), np.zeros(line, x.dtype), np.empty(line, x.dtype)
    for s in range(members):
        for o in range(out):
            for c in range(channels):
                g = weight[s, c, o] if adjoint else weight[s, o, c]
                first, last = (g[2], g[0]) if adjoint else (g[0], g[2])
                for k in range(_PRODUCTS):
                    u[k, o, c] = _G[k, 0] * first + _G[k, 1] * g[1] + _G[k, 2] * last
        for start in range(0, positions, _OUTPUTS):
            for c in range(channels):
                _input_by_line(x, (s, c, start - 1), v, (0, 0, c), lines, start - 1, positions, zeros)
            for q in range(lines):
                for o in range(0, out, ROWS):
                    size = min(ROWS, out - o)
                    for k in range(_PRODUCTS):
                        multiply(u, (k, o), v, (k, q), m, (k,), size, channels, False)
                    _output_tile(m, (0,), y, (s, o, start, q), size, start, positions, unused)


@_jit
def _filter_gradient(x, grad_y, grad_weight):
    """The gradient with respect to the weight of `_convolve`. A panel is the filters of one line."""
    members, channels, positions, lines, line = x.shape
    out, lanes, batch = grad_y.shape[1], line // 2, lines * line
    panels = -(-out // line)
    v, zeros = np.empty((_PRODUCTS, channels, lines + 1, line), x.dtype), np.zeros(line, x.dtype)
    turned, m = np.zeros((_OUTPUTS, panels, lines, line, line), x.dtype), np.empty((_PRODUCTS, panels * batch, line), x.dtype)
    rows, turned_rows = v.reshape(_PRODUCTS, channels, batch + line), turned.reshape(_OUTPUTS, panels * batch, line)
    grad_u = np.empty((_PRODUCTS, panels, channels, line), x.dtype)
    for s in range(members):
        for start in range(0, positions, _OUTPUTS):
            for c in range(channels):
                _input_by_channel(x, (s, c, start - 1), v, (0, c), lines, start - 1, positions, zeros)
            for r in range(min(_OUTPUTS, positions - start)):
                for o in range(0, out - lanes + 1, lanes):
                    _turn(grad_y, (s, o, start + r), turned, (r, o // line, 0, 0, o % line), lines)
                for o in range(out - out % lanes, out):
                    for q in range(lines):
                        for z in range(line):
                            turned[r, o // line, q, z, o % line] = grad_y[s, o, start + r, q, z]
            _output_tile_adjoint(turned_rows, (0,), m, (0,), panels * batch, start, positions, zeros)
            for k in range(_PRODUCTS):
                for p in range(panels):
                    multiply(rows, (k, 0), m, (k, p * batch), grad_u, (k, p), channels, batch, start > 0)
        for o in range(out):
            for c in range(channels):
                for tap in range(3):
                    total = 0.0
                    for k in range(_PRODUCTS):
                        total += _G[k, tap] * grad_u[k, o // line, c, o % line]
                    grad_weight[s, o, c, tap] = total


@_jit
def _normalise(x, has_residual, eps, weight, bias, mean, var, residual, out):
    """Batch norm, sum and ReLU of x `[members, channels, elements]`."""
    number, zero = x.dtype.type, x.dtype.type(0)
    members, channels, n = x.shape
    for s in range(members):
        for c in range(channels):
            row, added, target = x[s, c], residual[s, c], out[s, c]
            origin = row[0]  # shifting by a value of the channel guards the sum of squares against cancellation
            total = squares = 0.0
            for start in range(0, n, _CHUNK):
                first = second = zero
                for q in range(start, min(start + _CHUNK, n)):
                    deviation = row[q] - origin
                    first += deviation
                    second += deviation * deviation
                total += first
                squares += second
            offset = total / n
            mean[s, c], var[s, c] = origin + offset, squares / n - offset * offset
            scale = number(weight[s, c] / np.sqrt(var[s, c] + eps))
            shift = number(bias[s, c] - mean[s, c] * scale)
            if has_residual:
                for q in range(n):
                    z = row[q] * scale + shift + added[q]
                    target[q] = zero if z < zero else z
            else:
                for q in range(n):
                    z = row[q] * scale + shift
                    target[q] = zero if z < zero else z


@numba.njit(inline="always")
def _masked_sums(has_residual, grad, out, x, mu, scale, shift, masked):
    """Write to `masked` the gradient where ReLU let through; return its sum and that of its products with x - mu.

    The arrays are one chunk each. Written as a loop over parts of whole rows this was slower, and summed in another order in some places of
    memory: the compiler guards a vectorised loop that writes by a test for overlap, which then seems to cover more than the chunk.
    """
    zero = x.dtype.type(0)
    first = second = zero
    for q in range(len(grad)):
        g, gate = grad[q], out[q] if has_residual else out[q] * scale + shift
        g = zero if gate <= zero else g
        masked[q] = g
        first += g
        second += g * (x[q] - mu)
    return first, second


@_jit
def _normalise_adjoint(has_residual, eps, grad, out, x, grad_x, grad_residual, weight, bias, mean, var, grad_weight, grad_bias):
    """Gradients of `_normalise` with respect to x, residual, weight and bias, given the one with respect to its output."""
    number = x.dtype.type
    members, channels, n = x.shape
    spare = np.empty(n, x.dtype)  # not the row of grad_x: a loop that may write what it reads is not vectorised
    for s in range(members):
        for c in range(channels):
            grad_row, out_row, row, target = grad[s, c], out[s, c], x[s, c], grad_x[s, c]
            masked = grad_residual[s, c] if has_residual else spare
            mu, inverse_std = mean[s, c], 1 / np.sqrt(var[s, c] + eps)
            scale = number(weight[s, c] * inverse_std)
            shift = number(bias[s, c] - mu * scale)
            total = products = 0.0
            for start in range(0, n, _CHUNK):
                part = slice(start, start + _CHUNK)
                first, second = _masked_sums(has_residual, grad_row[part], out_row[part], row[part], mu, scale, shift, masked[part])
                total += first
                products += second
            grad_weight[s, c], grad_bias[s, c] = products * inverse_std, total
            of_x = number(-scale * products * inverse_std * inverse_std / n)
            constant = number(-scale * total / n - of_x * mu)
            for q in range(n):
                target[q] = scale * masked[q] + of_x * row[q] + constant


@_jit
def _pool_adjoint(x, grad_x, grad):
    """The gradient `[pairs, batch]` of each maximum goes to the greater of its pair in x `[pairs, 2, batch]`."""
    zero = x.dtype.type(0)
    for r in range(len(grad)):
        first, second, slope, to_first, to_second = x[r, 0], x[r, 1], grad[r], grad_x[r, 0], grad_x[r, 1]
        for q in range(len(slope)):
            to_first[q] = slope[q] if first[q] >= second[q] else zero
        for q in range(len(slope)):
            to_second[q] = slope[q] - to_first[q]
