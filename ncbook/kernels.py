"""The two operations in which a stack of 1-D networks spends its time: a width-3 convolution, and batch norm with ReLU.

Activations are `[members, positions, batch, channels]`: at one position the batch and its channels lie side by side, so that every
elementwise loop runs over one long contiguous row, and a convolution is a batch of matrix products.

On the CPU the convolution is Winograd's F(4, 3): four outputs from six products instead of twelve (Lavin & Gray 2016, "Fast algorithms
for convolutional neural networks"; exact in real arithmetic), and all elementwise work of one step is fused into one numba loop.
`conv3` and `batch_norm_relu` choose these for float32 and float64 tensors on the CPU, and plain torch operations otherwise.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# No flag here assumes that NaN does not occur: a diverged network must stay visible.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")

_ROW_BLOCK = 64  # rows summed in the tensor's own precision before they are added to a float64 total
_COLUMNS = 64  # rows shorter than this are joined, to fill the vector units

# F(4, 3) maps six inputs d and three taps g to the four outputs Aᵀ[(G g) ∘ (Bᵀ d)]; Aᵀ and Bᵀ are written out in the loops below.
_WINOGRAD_G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))


def conv3(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each member's signals with its own filters: width 3, stride 1, zero padding 1, no bias.

    x: `[members, positions, batch, channels]`; weight: `[members, out, channels, 3]`, whose member slice is the weight of an
    `nn.Conv1d`. Returns `[members, positions, batch, out]`.
    """
    return _Conv3.apply(x, weight) if _has_kernel(x) else conv3_plain(x, weight)


def conv3_plain(x: Tensor, weight: Tensor) -> Tensor:
    """`conv3` in plain torch operations, for any device and precision."""
    members, positions, batch, channels = x.shape
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 1, 1))
    columns = torch.cat([padded[:, tap : tap + positions] for tap in range(3)], dim=-1)
    taps = weight.permute(0, 3, 2, 1).reshape(members, 3 * channels, -1)
    return torch.bmm(columns.view(members, positions * batch, 3 * channels), taps).view(members, positions, batch, -1)


def batch_norm_relu(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU(batch norm of x, plus residual) with the statistics of this batch, separately for each member and channel.

    x and residual: `[members, positions, batch, channels]`; weight and bias: `[members, channels]`.
    Returns the activations, and the mean and the biased variance that normalised them, `[members, channels]`, without gradients.
    """
    if _has_kernel(x):
        return _BatchNormReLU.apply(x, weight, bias, residual, eps)
    return batch_norm_relu_plain(x, weight, bias, residual, eps)


def batch_norm_relu_plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_norm_relu` in plain torch operations, for any device and precision."""
    var, mean = torch.var_mean(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=(1, 2), correction=0)
    scale = weight * torch.rsqrt(var + eps)
    out = x * scale[:, None, None] + (bias - mean * scale)[:, None, None]
    if residual is not None:
        out = out + residual
    return torch.relu(out).to(x.dtype), mean.detach(), var.detach()


def _has_kernel(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


class _Conv3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        members, positions, batch, channels = x.shape
        tiles = -(-positions // 4)
        v = x.new_empty(members, 6, tiles, batch * channels)
        _input_tiles(x.detach().contiguous().view(members, positions, -1).numpy(), v.numpy())
        g = weight.new_tensor(_WINOGRAD_G)
        u = (weight.detach() @ g.T).permute(0, 3, 2, 1).reshape(members * 6, channels, -1)
        m = _product(v.view(members * 6, tiles * batch, channels), u)
        y = x.new_empty(members, positions, batch, u.shape[-1])
        _output_rows(m.view(members, 6, tiles, -1).numpy(), y.view(members, positions, -1).numpy())
        ctx.save_for_backward(v, u, g)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        v, u, g = ctx.saved_tensors
        members, positions, batch, channels = ctx.shape
        tiles = v.shape[2]
        grad_m = v.new_empty(members * 6, tiles * batch, u.shape[-1])
        _output_rows_adjoint(grad_y.contiguous().view(members, positions, -1).numpy(), grad_m.view(members, 6, tiles, -1).numpy())
        grad_u = _product(v.view(members * 6, tiles * batch, channels).transpose(1, 2), grad_m)
        grad_v = _product(grad_m, u.transpose(1, 2))
        grad_x = v.new_empty(ctx.shape)
        _input_tiles_adjoint(grad_v.view(members, 6, tiles, -1).numpy(), grad_x.view(members, positions, -1).numpy())
        return grad_x, grad_u.view(members, 6, channels, -1).permute(0, 3, 2, 1) @ g


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = x.detach().contiguous()
        members, positions, batch, channels = x.shape
        repeat = _rows_to_join(batch, channels)
        rows = (members, positions * batch // repeat, repeat * channels)
        out, mean, var = torch.empty_like(x), x.new_empty(members, channels), x.new_empty(members, channels)
        ctx.has_residual = residual is not None
        # Without a residual the output stands in for it, unread: one signature, one compilation.
        added = residual.detach().contiguous() if ctx.has_residual else out
        arrays = (t.detach().numpy() for t in (weight, bias, mean, var, added.view(rows), out.view(rows)))
        _normalise(x.view(rows).numpy(), ctx.has_residual, eps, *arrays)
        # With a residual ReLU's gate is read off the output; without, it is recomputed, which needs one array less.
        ctx.save_for_backward(x, out if ctx.has_residual else x, mean, var, weight, bias)
        ctx.rows, ctx.eps = rows, eps
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor, *_) -> tuple[Tensor | None, ...]:
        x, out, mean, var, weight, bias = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
        grad_residual = torch.empty_like(x) if ctx.has_residual else grad_x
        arrays = (t.view(ctx.rows).numpy() for t in (grad_out, out, x, grad_x, grad_residual))
        channels = (t.detach().numpy() for t in (weight, bias, mean, var, grad_weight, grad_bias))
        _normalise_adjoint(ctx.has_residual, ctx.eps, *arrays, *channels)
        return grad_x, grad_weight, grad_bias, grad_residual if ctx.has_residual else None, None


def _rows_to_join(batch: int, channels: int) -> int:
    """How many neighbouring rows of `channels` to treat as one: a divisor of the batch."""
    repeat = 1
    while repeat * channels < _COLUMNS and batch % (2 * repeat) == 0:
        repeat *= 2
    return repeat


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product; for a few channels numpy's BLAS is about three times faster than torch's."""
    if min(a.shape[2], b.shape[2]) >= 16:
        return torch.bmm(a, b)
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


@_jit
def _input_tiles(x, v):
    """v[s, :, t] = Bᵀ (rows 4t-1 ... 4t+4 of x[s]), rows outside the signal being zero."""
    members, positions, size = x.shape
    zero = np.zeros(size, x.dtype)
    for s in range(members):
        for t in range(v.shape[2]):
            r = 4 * t
            d0 = x[s, r - 1] if r >= 1 else zero
            d1 = x[s, r]
            d2 = x[s, r + 1] if r + 1 < positions else zero
            d3 = x[s, r + 2] if r + 2 < positions else zero
            d4 = x[s, r + 3] if r + 3 < positions else zero
            d5 = x[s, r + 4] if r + 4 < positions else zero
            v0, v1, v2, v3, v4, v5 = v[s, 0, t], v[s, 1, t], v[s, 2, t], v[s, 3, t], v[s, 4, t], v[s, 5, t]
            for q in range(size):
                v0[q] = 4 * d0[q] - 5 * d2[q] + d4[q]
            for q in range(size):
                v1[q] = d4[q] - 4 * d2[q] + d3[q] - 4 * d1[q]
            for q in range(size):
                v2[q] = d4[q] - 4 * d2[q] - d3[q] + 4 * d1[q]
            for q in range(size):
                v3[q] = d4[q] - d2[q] + 2 * (d3[q] - d1[q])
            for q in range(size):
                v4[q] = d4[q] - d2[q] - 2 * (d3[q] - d1[q])
            for q in range(size):
                v5[q] = 4 * d1[q] - 5 * d3[q] + d5[q]


@_jit
def _input_tiles_adjoint(v, x):
    """The transpose of `_input_tiles`: overlapping tiles add up."""
    members, positions, size = x.shape
    tiles = v.shape[2]
    zero = np.zeros(size, x.dtype)
    for s in range(members):
        for t in range(tiles):
            v0, v1, v2, v3, v4, v5 = v[s, 0, t], v[s, 1, t], v[s, 2, t], v[s, 3, t], v[s, 4, t], v[s, 5, t]
            before = v[s, 5, t - 1] if t > 0 else zero
            after = v[s, 0, t + 1] if t + 1 < tiles else zero
            r = 4 * t
            x0 = x[s, r]
            for q in range(size):
                x0[q] = 4 * (v2[q] - v1[q] + v5[q]) + 2 * (v4[q] - v3[q]) + before[q]
            if r + 1 < positions:
                x1 = x[s, r + 1]
                for q in range(size):
                    x1[q] = -5 * v0[q] - 4 * (v1[q] + v2[q]) - v3[q] - v4[q]
            if r + 2 < positions:
                x2 = x[s, r + 2]
                for q in range(size):
                    x2[q] = v1[q] - v2[q] + 2 * (v3[q] - v4[q]) - 5 * v5[q]
            if r + 3 < positions:
                x3 = x[s, r + 3]
                for q in range(size):
                    x3[q] = v0[q] + v1[q] + v2[q] + v3[q] + v4[q] + 4 * after[q]


@_jit
def _output_rows(m, y):
    """Rows 4t ... 4t+3 of y[s] = Aᵀ m[s, :, t], rows outside the signal left out."""
    members, positions, size = y.shape
    for s in range(members):
        for t in range(m.shape[2]):
            m0, m1, m2, m3, m4, m5 = m[s, 0, t], m[s, 1, t], m[s, 2, t], m[s, 3, t], m[s, 4, t], m[s, 5, t]
            r = 4 * t
            y0 = y[s, r]
            for q in range(size):
                y0[q] = m0[q] + m1[q] + m2[q] + m3[q] + m4[q]
            if r + 1 < positions:
                y1 = y[s, r + 1]
                for q in range(size):
                    y1[q] = m1[q] - m2[q] + 2 * (m3[q] - m4[q])
            if r + 2 < positions:
                y2 = y[s, r + 2]
                for q in range(size):
                    y2[q] = m1[q] + m2[q] + 4 * (m3[q] + m4[q])
            if r + 3 < positions:
                y3 = y[s, r + 3]
                for q in range(size):
                    y3[q] = m1[q] - m2[q] + 8 * (m3[q] - m4[q]) + m5[q]


@_jit
def _output_rows_adjoint(y, m):
    """The transpose of `_output_rows`."""
    members, positions, size = y.shape
    zero = np.zeros(size, y.dtype)
    for s in range(members):
        for t in range(m.shape[2]):
            r = 4 * t
            y0 = y[s, r]
            y1 = y[s, r + 1] if r + 1 < positions else zero
            y2 = y[s, r + 2] if r + 2 < positions else zero
            y3 = y[s, r + 3] if r + 3 < positions else zero
            m0, m1, m2, m3, m4, m5 = m[s, 0, t], m[s, 1, t], m[s, 2, t], m[s, 3, t], m[s, 4, t], m[s, 5, t]
            for q in range(size):
                m0[q] = y0[q]
            for q in range(size):
                m1[q] = y0[q] + y2[q] + y1[q] + y3[q]
            for q in range(size):
                m2[q] = y0[q] + y2[q] - y1[q] - y3[q]
            for q in range(size):
                m3[q] = y0[q] + 4 * y2[q] + 2 * y1[q] + 8 * y3[q]
            for q in range(size):
                m4[q] = y0[q] + 4 * y2[q] - 2 * y1[q] - 8 * y3[q]
            for q in range(size):
                m5[q] = y3[q]


@_jit
def _normalise(x, has_residual, eps, weight, bias, mean, var, residual, out):
    """Batch norm, sum and ReLU of x `[members, rows, columns]`; a column's channel is its index modulo the number of channels."""
    members, count, columns = x.shape
    channels = mean.shape[1]
    n = count * (columns // channels)
    first, second = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    scale, shift = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    total, squares = np.empty(channels), np.empty(channels)
    for s in range(members):
        origin = np.empty(columns, x.dtype)  # shifting by a value of the channel guards the sum of squares against cancellation
        for c in range(columns):
            origin[c] = x[s, 0, c % channels]
        total[:] = 0
        squares[:] = 0
        for start in range(0, count, _ROW_BLOCK):
            first[:] = 0
            second[:] = 0
            for r in range(start, min(start + _ROW_BLOCK, count)):
                row = x[s, r]
                for c in range(columns):
                    deviation = row[c] - origin[c]
                    first[c] += deviation
                    second[c] += deviation * deviation
            for c in range(columns):
                total[c % channels] += first[c]
                squares[c % channels] += second[c]
        for c in range(channels):
            offset = total[c] / n
            mean[s, c] = origin[c] + offset
            var[s, c] = squares[c] / n - offset * offset
        for c in range(columns):
            k = c % channels
            scale[c] = weight[s, k] / np.sqrt(var[s, k] + eps)
            shift[c] = bias[s, k] - mean[s, k] * scale[c]
        for r in range(count):
            row, out_row = x[s, r], out[s, r]
            if has_residual:
                residual_row = residual[s, r]
                for c in range(columns):
                    z = row[c] * scale[c] + shift[c] + residual_row[c]
                    out_row[c] = 0 if z < 0 else z
            else:
                for c in range(columns):
                    z = row[c] * scale[c] + shift[c]
                    out_row[c] = 0 if z < 0 else z


@_jit
def _normalise_adjoint(has_residual, eps, grad, out, x, grad_x, grad_residual, weight, bias, mean, var, grad_weight, grad_bias):
    """Gradients of `_normalise` with respect to x, residual, weight and bias, given the one with respect to its output."""
    members, count, columns = x.shape
    channels = mean.shape[1]
    n = count * (columns // channels)
    first, second, mu = np.empty(columns, x.dtype), np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    scale, shift = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    of_x, constant = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    total, products = np.empty(channels), np.empty(channels)
    for s in range(members):
        for c in range(columns):
            k = c % channels
            mu[c] = mean[s, k]
            scale[c] = weight[s, k] / np.sqrt(var[s, k] + eps)
            shift[c] = bias[s, k] - mean[s, k] * scale[c]
        total[:] = 0
        products[:] = 0
        for start in range(0, count, _ROW_BLOCK):
            first[:] = 0
            second[:] = 0
            for r in range(start, min(start + _ROW_BLOCK, count)):
                grad_row, out_row, row = grad[s, r], out[s, r], x[s, r]
                if has_residual:
                    for c in range(columns):
                        g = 0 if out_row[c] <= 0 else grad_row[c]
                        first[c] += g
                        second[c] += g * (row[c] - mu[c])
                else:
                    for c in range(columns):
                        g = 0 if row[c] * scale[c] + shift[c] <= 0 else grad_row[c]
                        first[c] += g
                        second[c] += g * (row[c] - mu[c])
            for c in range(columns):
                total[c % channels] += first[c]
                products[c % channels] += second[c]
        for c in range(columns):
            k = c % channels
            inverse_std = 1 / np.sqrt(var[s, k] + eps)
            grad_weight[s, k] = products[k] * inverse_std
            grad_bias[s, k] = total[k]
            of_x[c] = -weight[s, k] * products[k] * inverse_std * inverse_std * inverse_std / n
            constant[c] = -scale[c] * total[k] / n - of_x[c] * mu[c]
        for r in range(count):
            grad_row, out_row, row, target = grad[s, r], out[s, r], x[s, r], grad_x[s, r]
            if has_residual:
                masked = grad_residual[s, r]
                for c in range(columns):
                    g = 0 if out_row[c] <= 0 else grad_row[c]
                    masked[c] = g
                    target[c] = scale[c] * g + of_x[c] * row[c] + constant[c]
            else:
                for c in range(columns):
                    g = 0 if row[c] * scale[c] + shift[c] <= 0 else grad_row[c]
                    target[c] = scale[c] * g + of_x[c] * row[c] + constant[c]
