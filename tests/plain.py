"""The same networks and the same training, written the ordinary way: one network, stock PyTorch modules, stock optimisers.

Independent of `ncbook.models` and `ncbook.train` on purpose: the parity tests and the benchmark compare against it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool1d, mse_loss, one_hot, pad, relu


def conv(inputs, outputs):
    return nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)


class PlainBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = conv(width, width), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm1d(width)

    def forward(self, x):
        return relu(x + self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class PlainResNet1D(nn.Module):
    def __init__(self, width, feature_dim=None):
        super().__init__()
        self.stem, self.bn = conv(1, width), nn.BatchNorm1d(width)
        self.block1, self.block2 = PlainBlock(width), PlainBlock(width)
        self.projector = nn.Linear(width, feature_dim, bias=False) if feature_dim else None
        self.classifier = nn.Linear(feature_dim or width, 10, bias=False)

    def features(self, x):
        x = self.block2(self.block1(relu(self.bn(self.stem(x[:, None]))))).mean(-1)
        return self.projector(x) if self.projector else x

    def forward(self, x):
        return self.classifier(self.features(x))


class PlainCNN1D(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = conv(1, width), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm1d(width)
        self.conv3, self.bn3 = conv(width, 2 * width), nn.BatchNorm1d(2 * width)
        self.conv4, self.bn4 = conv(2 * width, 2 * width), nn.BatchNorm1d(2 * width)
        self.classifier = nn.Linear(2 * width, 10, bias=False)

    def features(self, x):
        x = max_pool1d(relu(self.bn1(self.conv1(x[:, None]))), 2)
        x = max_pool1d(relu(self.bn2(self.conv2(x))), 2)
        return relu(self.bn4(self.conv4(relu(self.bn3(self.conv3(x)))))).mean(-1)

    def forward(self, x):
        return self.classifier(self.features(x))


class PlainMLP(nn.Module):
    def __init__(self, inputs, model):
        super().__init__()
        kind = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[model.activation]
        sizes = [inputs] + [model.width] * model.depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.activation = kind()
        self.classifier = nn.Linear(model.width, 10)

    def features(self, x):
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return x

    def forward(self, x):
        return self.classifier(self.features(x))


class PlainImageBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.stride, self.added = outputs // inputs, outputs - inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2)))


class PlainResNet20(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        stages, inputs = [], width
        for outputs in (width, 2 * width, 4 * width):
            stages.append(nn.Sequential(PlainImageBlock(inputs, outputs), *(PlainImageBlock(outputs, outputs) for _ in range(2))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(4 * width, 10)

    def features(self, x):
        return self.stages(relu(self.bn(self.stem(x)))).mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


def build(model, point=(40,)):
    if model.name == "mlp":
        return PlainMLP(torch.Size(point).numel(), model)
    if model.name == "resnet20":
        return PlainResNet20(point[0], model.width)
    return PlainResNet1D(model.width, model.feature_dim) if model.name == "resnet1d" else PlainCNN1D(model.width)


def loss(spec, epoch, logits, labels):
    """The loss of an epoch, counted from 1."""
    if spec.switch is None or epoch <= spec.switch.epoch:
        return cross_entropy(logits, labels)
    squared = mse_loss(logits, one_hot(labels, 10).to(logits))
    return squared * 10 if spec.switch.reduction == "sum" else squared


def intervene(spec, network):
    """Scale what makes the features, so that a ReLU network's are `factor` times as long."""
    factor, layers = spec.intervention.factor, network.hidden
    with torch.no_grad():
        if spec.intervention.target == "features":
            layers[-1].weight *= factor
            layers[-1].bias *= factor
        else:
            for i, layer in enumerate(layers):
                layer.weight *= factor ** (1 / len(layers))
                layer.bias *= factor ** ((i + 1) / len(layers))


def optimizer(spec, network):
    """The stock optimiser, and its cosine schedule or None."""
    o = spec.optimizer
    if o.name == "adam":
        stock = torch.optim.Adam(network.parameters(), lr=o.lr, weight_decay=o.weight_decay)
    else:
        stock = torch.optim.SGD(network.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay)
    return stock, torch.optim.lr_scheduler.CosineAnnealingLR(stock, spec.epochs) if o.schedule == "cosine" else None


def train(spec, x, y, dtype=torch.float64, epochs=None):
    """One network after the other, `torch.manual_seed` for its weights, a generator of the same seed for its batches."""
    torch.manual_seed(spec.seed)
    network = build(spec.model, x.shape[1:]).to(dtype)
    stock, schedule = optimizer(spec, network)
    shuffle = torch.Generator().manual_seed(spec.seed)
    for epoch in range(1, (epochs or spec.epochs) + 1):
        if spec.switch and epoch == spec.switch.epoch + 1 and spec.switch.optimizer_state == "reset":
            stock, _ = optimizer(spec, network)
        if spec.intervention and epoch == spec.intervention.epoch + 1:
            intervene(spec, network)
        for batch in torch.randperm(len(x), generator=shuffle).split(spec.batch_size):
            stock.zero_grad()
            loss(spec, epoch, network(x[batch].to(dtype)), y[batch]).backward()
            stock.step()
        if schedule:
            schedule.step()
    return network.eval()
