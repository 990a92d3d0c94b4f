"""The same networks and the same training, written the ordinary way: one network, stock PyTorch modules, stock optimisers.

Independent of `ncbook.models` and `ncbook.train` on purpose: the parity tests and the benchmark compare against it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool1d, relu


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


def build(model):
    return PlainResNet1D(model.width, model.feature_dim) if model.name == "resnet1d" else PlainCNN1D(model.width)


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
    network = build(spec.model).to(dtype)
    stock, schedule = optimizer(spec, network)
    shuffle = torch.Generator().manual_seed(spec.seed)
    for _ in range(epochs or spec.epochs):
        for batch in torch.randperm(len(x), generator=shuffle).split(spec.batch_size):
            stock.zero_grad()
            cross_entropy(network(x[batch].to(dtype)), y[batch]).backward()
            stock.step()
        if schedule:
            schedule.step()
    return network.eval()
