"""SGD and Adam for the parameters of a whole stack, laid out as one flat vector; each member has an optimiser of its own.

On the CPU a step is one compiled pass over the vectors: read once, written once. Elsewhere it is plain torch operations, which a CUDA graph
can capture. Both compute what `torch.optim.SGD` and `torch.optim.Adam` (Kingma & Ba 2015) define, with L2 weight decay in the gradient.
"""

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from ncbook.spec import OptimizerSpec

# As in `kernels`: no flag assumes that NaN does not occur.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # Adam's, as in torch


class Optimizer:
    """What a step changes: `parameters`, and the tensors in `state`, each as long as these."""

    state: list[Tensor]
    """Momentum of SGD or first moment of Adam; second moment of Adam."""

    def __init__(self, parameters: Tensor, sizes: Sequence[int], specs: Sequence[OptimizerSpec], *, compiled: bool | None = None) -> None:
        """parameters: `[total]`, where block after block holds, for each of the specs' members in turn, `sizes[block]` numbers.

        `compiled`: whether steps are compiled, by default where the parameters are on the CPU.
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
            arrays = (tensor.numpy() for tensor in (self.parameters, first, second))
            blocks = tuple(gradient.numpy() for gradient in flat)
            _step(*arrays, blocks, *self._by_member, self._step_size.numpy(), _BETA2, _EPS, 1 / self._root.item())
            return
        adam, keep, take, decay = self._by_parameter
        gradient = torch.addcmul(torch.cat(flat), decay, self.parameters)
        first.mul_(keep).addcmul_(gradient, take)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        denominator = torch.where(adam, second.sqrt().div_(self._root).add_(_EPS), 1)
        self.parameters.addcmul_(first / denominator, self._step_size[self._member])


@_jit
def _step(parameters, first, second, gradients, adam, keep, take, decay, step_size, beta2, eps, inverse_root):
    kind = parameters.dtype.type
    keep2, take2, inverse_root, eps = kind(beta2), kind(1 - beta2), kind(inverse_root), kind(eps)
    members, start = len(adam), 0
    for block in gradients:
        length = len(block) // members
        for s in range(members):
            part = slice(start + s * length, start + (s + 1) * length)
            p, m, v, g = parameters[part], first[part], second[part], block[s * length : (s + 1) * length]
            keep1, take1, shrink, size = keep[s], take[s], decay[s], step_size[s]
            if adam[s]:
                for i in range(length):
                    slope = g[i] + shrink * p[i]
                    mean = keep1 * m[i] + take1 * slope
                    square = keep2 * v[i] + take2 * slope * slope
                    m[i], v[i] = mean, square
                    p[i] += size * mean / (np.sqrt(square) * inverse_root + eps)
            else:
                for i in range(length):
                    speed = keep1 * m[i] + (g[i] + shrink * p[i])
                    m[i] = speed
                    p[i] += size * speed
        start += len(block)
