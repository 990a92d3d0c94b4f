"""The networks, each written once and trained singly or as a stack of `members` independent networks.

Every parameter and buffer has the members as its first dimension; member s's slice *is* the plain network's parameter of the same name,
and is initialised as plain PyTorch modules built after `torch.manual_seed(seed)` are. Models know nothing of data, training or storage.

Signals are `[members, positions, batch]`. `layers(x)` yields every layer's activations by name, `model(x)` returns the last one, the logits.
Activations of spatial layers are `[members, positions, batch, channels]`, features and logits `[members, batch, dim]`.
"""

import abc
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ncbook.kernels import batch_norm_relu, conv3


class Conv1d(nn.Module):
    """Width-3 convolution without bias; `inputs=1` takes the bare signal."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[2] > 1:
            return conv3(x, self.weight)
        windows = nn.functional.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)  # [members, positions, batch, 3]
        return torch.einsum("mpbt,mot->mpbo", windows, self.weight[:, :, 0])


class BatchNorm1d(nn.Module):
    """Batch norm followed by an optional sum and ReLU; statistics are never shared between members."""

    eps, momentum = 1e-5, 0.1

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, channels))
        self.bias = nn.Parameter(torch.empty(members, channels))
        self.register_buffer("running_mean", torch.empty(members, channels))
        self.register_buffer("running_var", torch.empty(members, channels))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            out = torch.addcmul((self.bias - self.running_mean * scale)[:, None, None], x, scale[:, None, None])
            return torch.relu_(out if residual is None else out.add_(residual))
        out, mean, var = batch_norm_relu(x, self.weight, self.bias, residual, self.eps)
        n = x.shape[1] * x.shape[2]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return out


class Linear(nn.Module):
    """Linear map without bias."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight.transpose(1, 2))


class Stack(nn.Module, abc.ABC):
    """What all networks share. A subclass builds its modules in the order of a plain network's and defines `layers`."""

    members: int

    @abc.abstractmethod
    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield `(name, activations)` from the first layer to `features` and `logits`."""

    def forward(self, x: Tensor) -> Tensor:
        for _, activations in self.layers(x):
            pass
        return activations

    def activations(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The activations of the named layers. Raises `KeyError` for a layer that the network does not have."""
        found = {name: value for name, value in self.layers(x) if name in names}
        if missing := [name for name in names if name not in found]:
            raise KeyError(f"{type(self).__name__} has no layer {', '.join(missing)}: it has {', '.join(n for n, _ in self.layers(x))}.")
        return found

    @torch.no_grad()
    def reset(self, seeds: Sequence[int]) -> None:
        """Initialise member s as plain PyTorch modules are after `torch.manual_seed(seeds[s])`."""
        for member, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for module in self.modules():
                if isinstance(module, (Conv1d, Linear)):
                    weight = module.weight[member]
                    bound = 1 / math.sqrt(weight[0].numel())
                    weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
                elif isinstance(module, BatchNorm1d):
                    for tensor, value in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0), (module.running_var, 1)):
                        tensor[member] = value

    def parameters_per_member(self) -> int:
        """Number of trained parameters of one network."""
        return sum(p.numel() for p in self.parameters()) // self.members


class ResidualBlock(nn.Module):
    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv1d(members, width, width), BatchNorm1d(members, width)
        self.conv2, self.bn2 = Conv1d(members, width, width), BatchNorm1d(members, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), residual=x)


class ResNet1D(Stack):
    """Stem, two residual blocks without striding, global average pool, optional linear projector, linear classifier.

    12 width² + 23 width parameters without projector (10 classes). Layers: stem, block1, block2, features, logits.
    """

    def __init__(self, width: int, feature_dim: int | None = None, members: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.members = members
        self.stem, self.bn = Conv1d(members, 1, width), BatchNorm1d(members, width)
        self.block1, self.block2 = ResidualBlock(members, width), ResidualBlock(members, width)
        self.projector = None if feature_dim is None else Linear(members, width, feature_dim)
        self.classifier = Linear(members, feature_dim or width, classes)

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = self.bn(self.stem(x))
        yield "stem", x
        x = self.block1(x)
        yield "block1", x
        x = self.block2(x)
        yield "block2", x
        x = x.mean(1)
        if self.projector is not None:
            x = self.projector(x)
        yield "features", x
        yield "logits", self.classifier(x)


class CNN1D(Stack):
    """Two convolutions with max pooling, two of twice the width, global average pool, linear classifier.

    21 width² + 35 width parameters (10 classes). Layers: conv1 ... conv4, features, logits.
    """

    def __init__(self, width: int, members: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.members = members
        self.conv1, self.bn1 = Conv1d(members, 1, width), BatchNorm1d(members, width)
        self.conv2, self.bn2 = Conv1d(members, width, width), BatchNorm1d(members, width)
        self.conv3, self.bn3 = Conv1d(members, width, 2 * width), BatchNorm1d(members, 2 * width)
        self.conv4, self.bn4 = Conv1d(members, 2 * width, 2 * width), BatchNorm1d(members, 2 * width)
        self.classifier = Linear(members, 2 * width, classes)

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = _max_pool(self.bn1(self.conv1(x)))
        yield "conv1", x
        x = _max_pool(self.bn2(self.conv2(x)))
        yield "conv2", x
        x = self.bn3(self.conv3(x))
        yield "conv3", x
        x = self.bn4(self.conv4(x))
        yield "conv4", x
        x = x.mean(1)
        yield "features", x
        yield "logits", self.classifier(x)


def _max_pool(x: Tensor) -> Tensor:
    """Maximum of neighbouring positions."""
    return torch.maximum(x[:, 0::2], x[:, 1::2])


def build(name: str, width: int, feature_dim: int | None = None, members: int = 1) -> Stack:
    """The network that a `ModelSpec` names."""
    if name == "resnet1d":
        return ResNet1D(width, feature_dim, members)
    return CNN1D(width, members)
