"""SGD and Adam for the parameters of a whole stack, laid out as one flat vector, each member with its own learning rate and weight decay.

On the CPU a step is one compiled pass over the vectors: read once, written once. Elsewhere it is plain torch operations, which a CUDA graph
can capture. Both compute what `torch.optim.SGD` and `torch.optim.Adam` define, with L2 weight decay in the gradient.
"""

import abc
import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

# As in `kernels`: no flag assumes that NaN does not occur.
_jit = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")


class Optimizer(abc.ABC):
    """What a step changes: `parameters`, and the tensors in `state`, each as long as these."""

    state: list[Tensor]

    def __init__(self, parameters: Tensor, sizes: Sequence[int], lr: Sequence[float], weight_decay: Sequence[float], momentum: float) -> None:
        """parameters: `[total]`, where block after block holds, for each member in turn, `sizes[block]` numbers."""
        self.parameters, self.momentum = parameters, momentum
        lengths = np.repeat(np.array(sizes), len(lr))
        rates = [np.tile(np.array(values), len(sizes)) for values in (lr, weight_decay)]
        kind = parameters.cpu().numpy().dtype
        self._segments = (np.concatenate([[0], lengths.cumsum()]), *(values.astype(kind) for values in rates))
        self._compiled = parameters.device.type == "cpu"
        if not self._compiled:
            self._lr, self._decay = (torch.from_numpy(np.repeat(values.astype(kind), lengths)).to(parameters.device) for values in rates)

    @abc.abstractmethod
    def prepare(self, step: int, lr_factor: float) -> None:
        """Set what changes from step to step (`step` counts from 1); kept apart so that `step` can be captured as a CUDA graph."""

    @abc.abstractmethod
    def step(self, gradient: Tensor) -> None:
        """Change the parameters by their gradient, `[total]`."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    def __init__(self, parameters: Tensor, *args, **kwargs) -> None:
        super().__init__(parameters, *args, **kwargs)
        self.state = [torch.zeros_like(parameters)]
        self._step_size = parameters.new_zeros(())

    def prepare(self, step: int, lr_factor: float) -> None:
        self._step_size.fill_(-lr_factor)

    def step(self, gradient: Tensor) -> None:
        (velocity,) = self.state
        if self._compiled:
            arrays = (tensor.numpy() for tensor in (self.parameters, gradient, velocity))
            _sgd(*arrays, *self._segments, self.momentum, self._step_size.item())
        else:
            velocity.mul_(self.momentum).add_(torch.addcmul(gradient, self._decay, self.parameters))
            self.parameters.addcmul_(velocity, self._lr * self._step_size)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def __init__(self, parameters: Tensor, *args, **kwargs) -> None:
        super().__init__(parameters, *args, **kwargs)
        self.state = [torch.zeros_like(parameters), torch.zeros_like(parameters)]
        self._step_size, self._root = parameters.new_zeros(()), parameters.new_zeros(())

    def prepare(self, step: int, lr_factor: float) -> None:
        self._step_size.fill_(-lr_factor / (1 - self.beta1**step))
        self._root.fill_(math.sqrt(1 - self.beta2**step))

    def step(self, gradient: Tensor) -> None:
        mean, square = self.state
        if self._compiled:
            arrays = (tensor.numpy() for tensor in (self.parameters, gradient, mean, square))
            _adam(*arrays, *self._segments, self.beta1, self.beta2, self.eps, self._step_size.item(), 1 / self._root.item())
            return
        gradient = torch.addcmul(gradient, self._decay, self.parameters)
        mean.lerp_(gradient, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        denominator = square.sqrt().div_(self._root).add_(self.eps)
        self.parameters.addcmul_(mean / denominator, self._lr * self._step_size)


OPTIMIZERS = {"sgd": SGD, "adam": Adam}


@_jit
def _sgd(parameters, gradient, velocity, bounds, lr, decay, momentum, step_size):
    kind = parameters.dtype.type
    momentum = kind(momentum)
    for segment in range(len(lr)):
        part = slice(bounds[segment], bounds[segment + 1])
        p, g, v = parameters[part], gradient[part], velocity[part]
        rate, shrink = kind(lr[segment] * step_size), decay[segment]
        for i in range(len(p)):
            speed = momentum * v[i] + (g[i] + shrink * p[i])
            v[i] = speed
            p[i] += rate * speed


@_jit
def _adam(parameters, gradient, mean, square, bounds, lr, decay, beta1, beta2, eps, step_size, inverse_root):
    kind = parameters.dtype.type
    keep1, keep2, take1, take2, inverse_root, eps = kind(beta1), kind(beta2), kind(1 - beta1), kind(1 - beta2), kind(inverse_root), kind(eps)
    for segment in range(len(lr)):
        part = slice(bounds[segment], bounds[segment + 1])
        p, g, m, s = parameters[part], gradient[part], mean[part], square[part]
        rate, shrink = kind(lr[segment] * step_size), decay[segment]
        for i in range(len(p)):
            slope = g[i] + shrink * p[i]
            first = keep1 * m[i] + take1 * slope
            second = keep2 * s[i] + take2 * slope * slope
            m[i], s[i] = first, second
            p[i] += rate * first / (np.sqrt(second) * inverse_root + eps)
