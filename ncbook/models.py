"""The networks, each written once and trained singly or as a stack of `members` independent networks.

Every parameter and buffer has the members as its first dimension; member s's slice *is* the plain network's parameter of the same name,
and is initialised as plain PyTorch modules built after `torch.manual_seed(seed)` are. Models know nothing of data, training or storage.

Points are `[members, batch, ...]`: signals `[..., positions]`, images `[..., channels, height, width]`. `layers(x)` yields every layer's
activations by name, `model(x)` returns the last one, the logits. Activations of the 1-D networks' spatial layers are
`[members, positions, batch, channels]`, of ResNet-20's `[members, batch, channels, height, width]`, all others `[members, batch, dim]`.
"""

import abc
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, gelu, pad

from ncbook.kernels import batch_norm_relu, conv3, linear, max_pool
from ncbook.spec import ModelSpec


class Conv1d(nn.Module):
    """Width-3 convolution without bias on `[members, channels, positions, batch]`."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        return conv3(x, self.weight)


class BatchNorm(nn.Module):
    """The parameters and running statistics of a batch norm; statistics are never shared between members."""

    eps, momentum = 1e-5, 0.1

    def __init__(self, members: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, channels))
        self.bias = nn.Parameter(torch.empty(members, channels))
        self.register_buffer("running_mean", torch.empty(members, channels))
        self.register_buffer("running_var", torch.empty(members, channels))


class BatchNorm1d(BatchNorm):
    """Batch norm followed by an optional sum and ReLU on `[members, channels, positions, batch]`."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            out = torch.addcmul((self.bias - self.running_mean * scale)[:, :, None, None], x, scale[:, :, None, None])
            return torch.relu_(out if residual is None else out.add_(residual))
        out, mean, var = batch_norm_relu(x, self.weight, self.bias, residual, self.eps)
        n = x.shape[2] * x.shape[3]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return out


class Linear(nn.Module):
    """Linear map `[members, batch, inputs]` -> `[members, batch, outputs]`."""

    def __init__(self, members: int, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Stack(nn.Module, abc.ABC):
    """What all networks share. A subclass builds its modules in the order of a plain network's and defines `layers`."""

    members: int
    classifier: Linear

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
                if isinstance(module, (Conv1d, Conv2d, Linear)):
                    bound = 1 / math.sqrt(module.weight[member, 0].numel())
                    for parameter in module.parameters():
                        parameter[member] = torch.empty(parameter.shape[1:]).uniform_(-bound, bound, generator=generator)
                elif isinstance(module, BatchNorm):
                    for tensor, value in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0), (module.running_var, 1)):
                        tensor[member] = value

    def multiplied(self) -> list[str]:
        """Names of the parameters by which activations are multiplied: those of linear maps, biases included, and convolutions."""
        products = [name for name, module in self.named_modules() if isinstance(module, (Conv1d, Conv2d, Linear))]
        return [name for name, _ in self.named_parameters() if name.rpartition(".")[0] in products]

    def parameters_per_member(self) -> int:
        """Number of trained parameters of one network."""
        return sum(p.numel() for p in self.parameters()) // self.members

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each layer `[members]`, by layer, where a network's layers are homogeneous; else nothing."""
        return {}


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
        x = self.bn(self.stem(x.mT[:, None]))
        yield "stem", _by_position(x)
        x = self.block1(x)
        yield "block1", _by_position(x)
        x = self.block2(x)
        yield "block2", _by_position(x)
        x = x.mean(2).mT
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
        x = max_pool(self.bn1(self.conv1(x.mT[:, None])))
        yield "conv1", _by_position(x)
        x = max_pool(self.bn2(self.conv2(x)))
        yield "conv2", _by_position(x)
        x = self.bn3(self.conv3(x))
        yield "conv3", _by_position(x)
        x = self.bn4(self.conv4(x))
        yield "conv4", _by_position(x)
        x = x.mean(2).mT
        yield "features", x
        yield "logits", self.classifier(x)


def _by_position(x: Tensor) -> Tensor:
    """`[members, channels, positions, batch]` -> `[members, positions, batch, channels]`."""
    return x.permute(0, 2, 3, 1)


_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": gelu}


class MLP(Stack):
    """`depth` hidden layers of `width` units and a linear classifier, all with biases. Layers: hidden1 ... features, logits."""

    def __init__(self, inputs: int, depth: int, width: int, activation: str = "relu", members: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.members = members
        self.hidden = nn.ModuleList(Linear(members, inputs if i == 0 else width, width, bias=True) for i in range(depth))
        self.classifier = Linear(members, width, classes, bias=True)
        self._activation = _ACTIVATIONS[activation]

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = x.flatten(2)
        for i, layer in enumerate(self.hidden, 1):
            x = self._activation(layer(x))
            yield ("features" if i == len(self.hidden) else f"hidden{i}"), x
        yield "logits", self.classifier(x)

    @torch.no_grad()
    def squared_norms(self) -> dict[str, Tensor]:
        """In float64, the biases of the hidden layers 1 ... depth included, that of the classifier not."""
        hidden = {str(i): torch.cat([layer.weight.flatten(1), layer.bias], 1) for i, layer in enumerate(self.hidden, 1)}
        return {
            name: layer.double().square().sum(1) for name, layer in (hidden | {"classifier": self.classifier.weight.flatten(1)}).items()
        }

    @torch.no_grad()
    def scale_features(self, factors: Tensor, target: str) -> None:
        """Multiply the features of a ReLU network by factors `[members]`: through the last hidden layer ("features") or all ("layers")."""
        scaled = [self.hidden[-1]] if target == "features" else list(self.hidden)
        for i, layer in enumerate(scaled, 1):
            layer.weight.mul_(factors[:, None, None] ** (1 / len(scaled)))
            layer.bias.mul_(factors[:, None] ** (i / len(scaled)))


class Conv2d(nn.Module):
    """3x3 convolution without bias on `[batch, members * inputs, height, width]`, the members as groups."""

    def __init__(self, members: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs, 3, 3))
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight.flatten(0, 1), stride=self._stride, padding=1, groups=len(self.weight))


class BatchNorm2d(BatchNorm):
    """Batch norm on `[batch, members * channels, height, width]`."""

    def forward(self, x: Tensor) -> Tensor:
        parts = (part.view(-1) for part in (self.running_mean, self.running_var, self.weight, self.bias))
        return batch_norm(x, *parts, training=self.training, momentum=self.momentum, eps=self.eps)


class ImageBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: where the block halves the image, it skips pixels and adds empty channels."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self._members, self._stride, self._added = members, 1 if inputs == outputs else 2, outputs - inputs
        self.conv1, self.bn1 = Conv2d(members, inputs, outputs, self._stride), BatchNorm2d(members, outputs)
        self.conv2, self.bn2 = Conv2d(members, outputs, outputs), BatchNorm2d(members, outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self._added:
            kept = x[:, :, :: self._stride, :: self._stride].unflatten(1, (self._members, -1))
            shortcut = pad(kept, (0, 0, 0, 0, self._added // 2, self._added - self._added // 2)).flatten(1, 2)
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet20(Stack):
    """The CIFAR network of He et al. (2016): stem, three stages of three blocks (`width`, 2 and 4 times as many channels), global average
    pool, linear classifier with bias. Layers: stem, stage1 ... stage3, features, logits.
    """

    def __init__(self, channels: int, width: int, members: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.members = members
        self.stem, self.bn = Conv2d(members, channels, width), BatchNorm2d(members, width)
        widths = [width, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(*(ImageBlock(members, before if i == 0 else after, after) for i in range(3)))
            for before, after in zip(widths, widths[1:])
        )
        self.classifier = Linear(members, 4 * width, classes, bias=True)

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        x = torch.relu(self.bn(self.stem(x)))
        yield "stem", self._by_member(x)
        for i, stage in enumerate(self.stages, 1):
            x = stage(x)
            yield f"stage{i}", self._by_member(x)
        x = self._by_member(x).mean((-2, -1))
        yield "features", x
        yield "logits", self.classifier(x)

    def _by_member(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.members, -1)).transpose(0, 1)


def build(shape: ModelSpec, members: int = 1, point: Sequence[int] = (40,)) -> Stack:
    """The network that `shape` names, for points of the shape `point`; its weights are not set before `reset`."""
    if shape.name == "resnet1d":
        return ResNet1D(shape.width, shape.feature_dim, members)
    if shape.name == "cnn1d":
        return CNN1D(shape.width, members)
    if shape.name == "mlp":
        return MLP(math.prod(point), shape.depth, shape.width, shape.activation, members)
    return ResNet20(point[0], shape.width, members)
