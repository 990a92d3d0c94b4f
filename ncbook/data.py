"""Data sets as tensors ready to train on, with label noise drawn from a seed of its own. Knows nothing of models."""

import functools
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ncbook.images import load_images, stratified_subset
from ncbook.spec import IMAGES, DataSpec, SpecError


@dataclass(frozen=True)
class Data:
    """A data set whose training labels come in two versions: the true ones and the noisy ones trained on."""

    x_train: Tensor
    """`[train points, positions]` or `[train points, channels, height, width]`, float32."""
    y_clean: Tensor
    """`[train points]`, int64."""
    y_noisy: Tensor
    """`[train points]`, int64: what the network is trained on."""
    x_test: Tensor
    y_test: Tensor
    classes: int
    source: str
    """Where the data came from, for the provenance of a run."""

    @property
    def flipped(self) -> Tensor:
        """`[train points]`, bool: the points whose noisy label differs from the true one."""
        return self.y_noisy != self.y_clean


def noisy_labels(labels: np.ndarray, rate: float, classes: int, seed: int) -> np.ndarray:
    """Draw a share `rate` of the points without replacement and give each a label drawn uniformly from all classes.

    A drawn label may be the true one: about `rate * (1 - 1/classes)` of the labels really change.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(labels), round(rate * len(labels)), replace=False)
    noisy = labels.copy()
    noisy[chosen] = generator.integers(0, classes, len(chosen))
    return noisy


@functools.lru_cache(maxsize=1)
def _mnist1d() -> dict[str, np.ndarray]:
    import mnist1d.data

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        return mnist1d.data.make_dataset()  # seeds the global generators
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@functools.lru_cache(maxsize=2)
def load(spec: DataSpec) -> Data:
    """The data that `spec` names.

    MNIST-1D (Greydanus & Kobak 2024) is generated: 4,000 training and 1,000 test signals of length 40. Images are standardised by the mean
    and standard deviation of each channel over all training images, whatever the subset. Raises `images.DataError` where files are
    missing or altered, `SpecError` where the label noise leaves a class without a point, as it has no mean then.
    """
    data = _images(spec) if spec.name in IMAGES else _signals(spec)
    points = torch.bincount(data.y_noisy, minlength=data.classes)
    if empty := (points == 0).nonzero().flatten().tolist():
        way_out = "raise subset, lower label_noise or choose another noise_seed"
        raise SpecError(
            f"data.subset={spec.subset} with label_noise={spec.label_noise} and noise_seed={spec.noise_seed} leaves class {empty[0]} "
            f"without a training point: {way_out}."
        )
    return data


def _signals(spec: DataSpec) -> Data:
    raw = _mnist1d()
    clean = raw["y"].astype(np.int64)
    return Data(
        x_train=torch.from_numpy(raw["x"].astype(np.float32)),
        y_clean=torch.from_numpy(clean),
        y_noisy=torch.from_numpy(noisy_labels(clean, spec.label_noise, 10, spec.noise_seed)),
        x_test=torch.from_numpy(raw["x_test"].astype(np.float32)),
        y_test=torch.from_numpy(raw["y_test"].astype(np.int64)),
        classes=10,
        source="mnist1d (generated, seed 42)",
    )


def _images(spec: DataSpec) -> Data:
    raw = load_images(spec.name)
    mean = raw.train_images.mean((0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = raw.train_images.std((0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    chosen = slice(None) if spec.subset is None else stratified_subset(raw.train_labels, spec.subset)
    x_train, x_test = (torch.from_numpy((x.astype(np.float32) - mean) / deviation) for x in (raw.train_images[chosen], raw.test_images))
    clean = raw.train_labels[chosen]
    return Data(
        x_train=x_train,
        y_clean=torch.tensor(clean),
        y_noisy=torch.from_numpy(noisy_labels(clean, spec.label_noise, 10, spec.noise_seed)),
        x_test=x_test,
        y_test=torch.tensor(raw.test_labels),
        classes=10,
        source=raw.source,
    )
