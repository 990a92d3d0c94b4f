"""SGD and Adam for the parameters of a whole stack, laid out as one flat vector; each member has an optimiser of its own.

On the CPU a step is one compiled pass over the vectors: read once, written once, and bfloat16 copies of them with it. Elsewhere it is plain
torch operations, which a CUDA graph can capture. Both compute what `torch.optim.SGD` and `torch.optim.Adam` (Kingma & Ba 2015) define, with
L2 weight decay in the gradient.
"""

import math
from collections.abc import Mapping, Sequence

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from ncbook.spec import OptimizerSpec

# As in `kernels`: no flag assumes that NaN does not occur.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")

# Parameters that are changed, then copied, before the next: still in the cache. One loop that did both would write to so many arrays that
# the compiler, which would have to exclude that they overlap, does not vectorise it.
_CHUNK = 2048
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # Adam's, as in torch


class Optimizer:
    """What a step changes: `parameters`, and the tensors in `state`, each as long as these."""

    state: list[Tensor]
    """Momentum of SGD or first moment of Adam; second moment of Adam."""

    def __init__(
        self,
        parameters: Tensor,
        sizes: Sequence[int],
        specs: Sequence[OptimizerSpec],
        *,
        rounded: Mapping[int, Tensor] | None = None,
        compiled: bool | None = None,
    ) -> None:
        """parameters: `[total]`, where block after block holds, for each of the specs' members in turn, `sizes[block]` numbers.

        `rounded`: of the blocks whose gradients come in bfloat16, a bfloat16 tensor each, `[members * sizes[block]]`, to which a step
        writes the new parameters; only for compiled steps and parameters in float32. `compiled`: whether steps are compiled, by default
        where the parameters are on the CPU. Raises `ValueError` for `rounded` without compiled steps.
        """
        self.parameters = parameters
        self.state = [torch.zeros_like(parameters), torch.zeros_like(parameters)]
        kind = parameters.cpu().numpy().dtype
        adam = np.array([spec.name == "adam" for spec in specs])
        self._adam, self._rates = adam, np.array([spec.lr for spec in specs])
        keep = np.where(adam, _BETA1, [spec.momentum for spec in specs]).astype(kind)
        take = np.where(adam, 1 - _BETA1, 1).astype(kind)
        decay = np.array([spec.weight_decay for spec in specs], kind)
        self._step_size, self._root = parameters.new_zeros(len(specs)), parameters.new_zeros(())
        self._compiled = parameters.device.type == "cpu" if compiled is None else compiled
        if self._compiled:
            self._by_member = (adam, keep, take, decay)
            self._copies = {block: _bits(copy) for block, copy in (rounded or {}).items()}
            self._others = [block for block in range(len(sizes)) if block not in self._copies]
            starts = np.cumsum([0, *sizes]) * len(specs)
            self._starts = [starts[list(blocks)] for blocks in (self._others, self._copies)]
        elif rounded:
            raise ValueError(f"rounded: {len(rounded)} blocks, but only compiled steps, on the CPU, round; leave it out.")
        else:
            member = np.repeat(np.tile(np.arange(len(specs)), len(sizes)), np.repeat(sizes, len(specs)))
            self._member = torch.from_numpy(member).to(parameters.device)
            self._by_parameter = [torch.from_numpy(values).to(parameters.device)[self._member] for values in (adam, keep, take, decay)]

    def prepare(self, step: int, lr_factors: Sequence[float]) -> None:
        """Set what changes from step to step: `step` counts from 1, the factors are the members'.

        Kept apart so that `step` can be captured as a CUDA graph.
        """
        sizes = -self._rates * lr_factors / np.where(self._adam, 1 - _BETA1**step, 1)
        self._step_size.copy_(torch.from_numpy(sizes))
        self._root.fill_(math.sqrt(1 - _BETA2**step))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Change the parameters by their gradients, one tensor for each block, `[members * sizes[block]]` in any shape."""
        flat = [gradient.reshape(-1) for gradient in gradients]
        first, second = self.state
        if self._compiled:
            arrays = [tensor.numpy() for tensor in (self.parameters, first, second)]
            settings = (*self._by_member, self._step_size.numpy(), _BETA2, _EPS, 1 / self._root.item())
            if self._others:
                blocks = tuple(flat[block].numpy() for block in self._others)
                _step(*arrays, self._starts[0], blocks, blocks, *settings)
            if self._copies:
                blocks = tuple(_bits(flat[block]) for block in self._copies)
                _step(*arrays, self._starts[1], blocks, tuple(self._copies.values()), *settings)
            return
        adam, keep, take, decay = self._by_parameter
        gradient = torch.addcmul(torch.cat(flat), decay, self.parameters)
        first.mul_(keep).addcmul_(gradient, take)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        denominator = torch.where(adam, second.sqrt().div_(self._root).add_(_EPS), 1)
        self.parameters.addcmul_(first / denominator, self._step_size[self._member])


def _bits(tensor: Tensor) -> np.ndarray:
    """The bfloat16 numbers of a tensor, which numpy does not know, as they lie in memory: the upper halves of those of float32."""
    return tensor.detach().view(torch.int16).numpy().view(np.uint16)


def _value(number):
    """A gradient's number, widened if it is bfloat16's bits."""
    raise NotImplementedError("compiled only")


@overload(_value, inline="always")
def _(number):
    if isinstance(number, types.Integer):
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _copy_rounded(values, copy):
    """Sets bfloat16's bits to the numbers nearest to the values, of two the even one; NaN stays NaN. Floats are left as they are."""
    raise NotImplementedError("compiled only")


@overload(_copy_rounded, inline="always")
def _(values, copy):
    if not isinstance(copy.dtype, types.Integer):
        return lambda values, copy: None

    def rounded(values, copy):
        bits = values.view(np.uint32)
        for i in range(len(copy)):
            odd = (bits[i] >> np.uint32(16)) & np.uint32(1)
            copy[i] = 0x7FC0 if values[i] != values[i] else (bits[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)

    return rounded


@_jit
def _step(parameters, first, second, starts, gradients, copies, adam, keep, take, decay, step_size, beta2, eps, inverse_root):
    """One step of the blocks that begin at `starts`; of gradients that are not bfloat16's bits the copies stay as they are."""
    kind = parameters.dtype.type
    keep2, take2, inverse_root, eps = kind(beta2), kind(1 - beta2), kind(inverse_root), kind(eps)
    members = len(adam)
    for block in range(len(gradients)):
        gradient, copy, start = gradients[block], copies[block], starts[block]
        length = len(gradient) // members
        for s in range(members):
            keep1, take1, shrink, size = keep[s], take[s], decay[s], step_size[s]
            for begin in range(s * length, (s + 1) * length, _CHUNK):
                end = min(begin + _CHUNK, (s + 1) * length)
                part = slice(start + begin, start + end)
                p, m, v, g = parameters[part], first[part], second[part], gradient[begin:end]
                if adam[s]:
                    for i in range(len(g)):
                        slope = _value(g[i]) + shrink * p[i]
                        mean = keep1 * m[i] + take1 * slope
                        square = keep2 * v[i] + take2 * slope * slope
                        m[i], v[i] = mean, square
                        p[i] += size * mean / (np.sqrt(square) * inverse_root + eps)
                else:
                    for i in range(len(g)):
                        speed = keep1 * m[i] + (_value(g[i]) + shrink * p[i])
                        m[i] = speed
                        p[i] += size * speed
                _copy_rounded(p, copy[begin:end])
