"""What Rupa (arXiv 2604.00230) reports, and where: of her paper only the abstract and the captions of five figures were to be had.

A = abstract, C1 ... C5 = the captions of Figures 1 to 5. Whatever else the paper holds is unknown here, and so are its widths, rates and
batch sizes.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    value: float
    place: str


IMAGES = {"mnist": 60_000, "cifar10": 50_000}
"""Training images of the paper's data sets."""
SEEDS = 3
"""C2, C4; C5 from 9 runs at three weight decays."""
SWITCH = 200
"""C1: last epoch of cross-entropy on MNIST; unknown for ResNet-20."""
RESNET_WIDTH = 16
"""Channels of the first block of ResNet-20 as He et al. (2016) built it; the paper gives no other."""

BASELINE = {
    "terminal_epoch": Reported(10, "Figure 1 (a)"),
    "terminal_norm": Reported(27, "Figure 1 (d)"),
    "T_NC": Reported(310, "Figure 1 (b)"),
    "fn_star": Reported(1.063, "Figure 1 (d)"),
    "compression": Reported(25, "Figure 1 (d)"),
}
"""MLP-5, ReLU, weight decay 1e-4, MNIST."""
SINCE_SWITCH = Reported(BASELINE["T_NC"].value - SWITCH, "Figure 1 (b)")

RESNET = {
    "terminal_epoch": Reported(100, "Figure 2 (a)"),
    "T_NC": Reported(660, "Figure 2 (b)"),
    "fn_star_low": Reported(1.506, "Figure 2 (b)"),
    "fn_star_high": Reported(1.521, "Figure 2 (b)"),
    "above_baseline": Reported(0.43, "Figure 2 (c)"),
}
"""ResNet-20, SGD, weight decay 1e-3, CIFAR-10, three seeds."""

ACTIVATIONS = {"relu": Reported(1.07, "Figure 4"), "tanh": Reported(1.33, "Figure 4"), "gelu": Reported(2.13, "Figure 4")}
"""fn* of MLP-5 on MNIST, three seeds each."""
GELU_VARIATION = Reported(0.21, "Figure 4")

FASTEST_DEPTH = Reported(3, "Figure 3 (a)")

WEIGHT_DECAY = {
    "fn_star": Reported(1.038, "Figure 5 (b)"),
    "fn_star_low": Reported(0.998, "Figure 5 (b)"),
    "fn_star_high": Reported(1.078, "Figure 5 (b)"),
    "variation": Reported(0.064, "Figure 5 (b)"),
    "onset_shift": Reported(90, "Figure 5 (a)"),
    "runs": Reported(9, "Figure 5 (c)"),
}
"""The grand mean of fn* over three collapsing weight decays with three seeds each, its 95 % interval, and its coefficient of variation."""

WIDTH_SHIFT = Reported(0.13, "Abstract")
"""The most that width moves fn*."""
VARIATION = Reported(0.08, "Abstract")
"""The coefficient of variation that fn* stays below within each pair of model and data set."""
LEAD = Reported(62, "Abstract")
LEAD_ERROR = Reported(24, "Abstract")
"""Mean lead and mean absolute error of the predictor, in epochs."""

GRID_EFFECTS = {"mnist": Reported(4.58, "Abstract"), "cifar10": Reported(0.68, "Abstract")}
"""ResNet-20 over MLP-5, less 1."""


def grid() -> dict[tuple[str, str], Reported]:
    """fn* of each (model, data) of the grid; both cells of the MLP are what the relative effects imply."""
    on_mnist, on_cifar = 5.867, (RESNET["fn_star_low"].value + RESNET["fn_star_high"].value) / 2
    return {
        ("mlp", "mnist"): Reported(on_mnist / (1 + GRID_EFFECTS["mnist"].value), "implied by the abstract"),
        ("resnet20", "mnist"): Reported(on_mnist, "Abstract"),
        ("mlp", "cifar10"): Reported(on_cifar / (1 + GRID_EFFECTS["cifar10"].value), "implied by the abstract and Figure 2"),
        ("resnet20", "cifar10"): Reported(on_cifar, "middle of the range in Figure 2 (b)"),
    }
