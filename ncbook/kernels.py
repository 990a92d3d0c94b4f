"""The two operations in which a stack of 1-D networks spends its time: a width-3 convolution, and batch norm with ReLU.

Activations are `[members, positions, batch, channels]`: at one position the batch and its channels lie side by side, so that every
elementwise loop runs over one long contiguous row, and a convolution is a few matrix products.

On the CPU the convolution is Winograd's F(4, 3): four outputs from six products instead of twelve (Lavin & Gray 2016, "Fast algorithms
for convolutional neural networks"; exact in real arithmetic), done tile by tile in one compiled loop that calls the BLAS of scipy; batch
norm, sum and ReLU are one loop forward and one backward. All constants are of the arrays' own type: numba computes float32 with whole
numbers in float64.
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
        x, g = x.detach().contiguous(), weight.new_tensor(_WINOGRAD_G)
        u = (weight.detach() @ g.T).permute(0, 3, 2, 1).contiguous()  # [members, 6, channels, out]
        y = x.new_empty(members, positions, batch, u.shape[-1])
        _convolve(_rows(x), u.numpy(), _rows(y), batch)
        ctx.save_for_backward(x, u, g)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        x, u, g = ctx.saved_tensors
        grad_x, grad_u = torch.empty_like(x), torch.empty_like(u)
        transposed = u.transpose(2, 3).contiguous()
        _convolve_adjoint(_rows(x), transposed.numpy(), _rows(grad_y.contiguous()), _rows(grad_x), grad_u.numpy(), x.shape[2])
        return grad_x, grad_u.permute(0, 3, 2, 1) @ g


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


def _rows(x: Tensor) -> np.ndarray:
    """`[members, positions, batch * channels]`."""
    return x.flatten(2).numpy()


@_jit
def _convolve(x, u, y, batch):
    """y = the convolution of x with the filters G g = u `[members, 6, channels, out]`, tile after tile, so that a tile stays in cache."""
    members, positions, size = x.shape
    channels, out = u.shape[2:]
    zero, v, m = np.zeros(size, x.dtype), np.empty((6, size), x.dtype), np.empty((6, batch * out), x.dtype)
    for s in range(members):
        for start in range(0, positions, 4):
            _input_tile(x[s], start, zero, v)
            for k in range(6):
                np.dot(v[k].reshape(batch, channels), u[s, k], m[k].reshape(batch, out))
            _output_rows(m, y[s], start)


@_jit
def _convolve_adjoint(x, u, grad_y, grad_x, grad_u, batch):
    """The gradients of `_convolve`; u is `[members, 6, out, channels]` here, grad_u as u there."""
    members, positions, size = x.shape
    out, channels = u.shape[2:]
    zero, zero_out = np.zeros(size, x.dtype), np.zeros(batch * out, x.dtype)
    v, grad_v, grad_m = np.empty((6, size), x.dtype), np.empty((6, size), x.dtype), np.empty((6, batch * out), x.dtype)
    of_tile = np.empty((channels, out), x.dtype)
    for s in range(members):
        grad_u[s] = 0
        grad_x[s, 0] = 0
        for start in range(0, positions, 4):
            _input_tile(x[s], start, zero, v)
            _output_rows_adjoint(grad_y[s], start, zero_out, grad_m)
            for k in range(6):
                columns = grad_m[k].reshape(batch, out)
                np.dot(v[k].reshape(batch, channels).T, columns, of_tile)
                grad_u[s, k] += of_tile
                np.dot(columns, u[s, k], grad_v[k].reshape(batch, channels))
            _input_tile_adjoint(grad_v, start, grad_x[s])


@_jit
def _input_tile(x, r, zero, v):
    """v = Bᵀ (rows r-1 ... r+4 of x), rows outside the signal being zero."""
    two, four, five = x.dtype.type(2), x.dtype.type(4), x.dtype.type(5)
    positions, size = x.shape
    d0 = x[r - 1] if r >= 1 else zero
    d1 = x[r]
    d2 = x[r + 1] if r + 1 < positions else zero
    d3 = x[r + 2] if r + 2 < positions else zero
    d4 = x[r + 3] if r + 3 < positions else zero
    d5 = x[r + 4] if r + 4 < positions else zero
    v0, v1, v2, v3, v4, v5 = v[0], v[1], v[2], v[3], v[4], v[5]
    for q in range(size):
        v0[q] = four * d0[q] - five * d2[q] + d4[q]
    for q in range(size):
        v1[q] = d4[q] - four * d2[q] + d3[q] - four * d1[q]
    for q in range(size):
        v2[q] = d4[q] - four * d2[q] - d3[q] + four * d1[q]
    for q in range(size):
        v3[q] = d4[q] - d2[q] + two * (d3[q] - d1[q])
    for q in range(size):
        v4[q] = d4[q] - d2[q] - two * (d3[q] - d1[q])
    for q in range(size):
        v5[q] = four * d1[q] - five * d3[q] + d5[q]


@_jit
def _input_tile_adjoint(v, r, x):
    """The transpose of `_input_tile`, for tiles in rising order: rows r-1 and r add to what the tile before left there."""
    two, four, five = x.dtype.type(2), x.dtype.type(4), x.dtype.type(5)
    positions, size = x.shape
    v0, v1, v2, v3, v4, v5 = v[0], v[1], v[2], v[3], v[4], v[5]
    if r >= 1:
        before = x[r - 1]
        for q in range(size):
            before[q] += four * v0[q]
    x0 = x[r]
    for q in range(size):
        x0[q] += four * (v2[q] - v1[q] + v5[q]) + two * (v4[q] - v3[q])
    if r + 1 < positions:
        x1 = x[r + 1]
        for q in range(size):
            x1[q] = -five * v0[q] - four * (v1[q] + v2[q]) - v3[q] - v4[q]
    if r + 2 < positions:
        x2 = x[r + 2]
        for q in range(size):
            x2[q] = v1[q] - v2[q] + two * (v3[q] - v4[q]) - five * v5[q]
    if r + 3 < positions:
        x3 = x[r + 3]
        for q in range(size):
            x3[q] = v0[q] + v1[q] + v2[q] + v3[q] + v4[q]
    if r + 4 < positions:
        after = x[r + 4]
        for q in range(size):
            after[q] = v5[q]


@_jit
def _output_rows(m, y, r):
    """Rows r ... r+3 of y = Aᵀ m, rows outside the signal left out."""
    two, four, eight = y.dtype.type(2), y.dtype.type(4), y.dtype.type(8)
    positions, size = y.shape
    m0, m1, m2, m3, m4, m5 = m[0], m[1], m[2], m[3], m[4], m[5]
    y0 = y[r]
    for q in range(size):
        y0[q] = m0[q] + m1[q] + m2[q] + m3[q] + m4[q]
    if r + 1 < positions:
        y1 = y[r + 1]
        for q in range(size):
            y1[q] = m1[q] - m2[q] + two * (m3[q] - m4[q])
    if r + 2 < positions:
        y2 = y[r + 2]
        for q in range(size):
            y2[q] = m1[q] + m2[q] + four * (m3[q] + m4[q])
    if r + 3 < positions:
        y3 = y[r + 3]
        for q in range(size):
            y3[q] = m1[q] - m2[q] + eight * (m3[q] - m4[q]) + m5[q]


@_jit
def _output_rows_adjoint(y, r, zero, m):
    """The transpose of `_output_rows`."""
    two, four, eight = y.dtype.type(2), y.dtype.type(4), y.dtype.type(8)
    positions, size = y.shape
    y0 = y[r]
    y1 = y[r + 1] if r + 1 < positions else zero
    y2 = y[r + 2] if r + 2 < positions else zero
    y3 = y[r + 3] if r + 3 < positions else zero
    m0, m1, m2, m3, m4, m5 = m[0], m[1], m[2], m[3], m[4], m[5]
    for q in range(size):
        m0[q] = y0[q]
    for q in range(size):
        m1[q] = y0[q] + y2[q] + y1[q] + y3[q]
    for q in range(size):
        m2[q] = y0[q] + y2[q] - y1[q] - y3[q]
    for q in range(size):
        m3[q] = y0[q] + four * y2[q] + two * y1[q] + eight * y3[q]
    for q in range(size):
        m4[q] = y0[q] + four * y2[q] - two * y1[q] - eight * y3[q]
    for q in range(size):
        m5[q] = y3[q]


@_jit
def _normalise(x, has_residual, eps, weight, bias, mean, var, residual, out):
    """Batch norm, sum and ReLU of x `[members, rows, columns]`; a column's channel is its index modulo the number of channels."""
    zero = x.dtype.type(0)
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
                    out_row[c] = zero if z < zero else z
            else:
                for c in range(columns):
                    z = row[c] * scale[c] + shift[c]
                    out_row[c] = zero if z < zero else z


@_jit
def _normalise_adjoint(has_residual, eps, grad, out, x, grad_x, grad_residual, weight, bias, mean, var, grad_weight, grad_bias):
    """Gradients of `_normalise` with respect to x, residual, weight and bias, given the one with respect to its output."""
    zero = x.dtype.type(0)
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
                        g = zero if out_row[c] <= zero else grad_row[c]
                        first[c] += g
                        second[c] += g * (row[c] - mu[c])
                else:
                    for c in range(columns):
                        g = zero if row[c] * scale[c] + shift[c] <= zero else grad_row[c]
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
                    g = zero if out_row[c] <= zero else grad_row[c]
                    masked[c] = g
                    target[c] = scale[c] * g + of_x[c] * row[c] + constant[c]
            else:
                for c in range(columns):
                    g = zero if row[c] * scale[c] + shift[c] <= zero else grad_row[c]
                    target[c] = scale[c] * g + of_x[c] * row[c] + constant[c]
