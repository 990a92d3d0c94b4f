"""MNIST-1D is what its package generates; label noise is what it says."""

import hashlib
import random

import mnist1d.data
import numpy as np
import pytest
import torch

from ncbook import data
from ncbook.spec import DataSpec, SpecError

PINNED = "ad465ce598d762af"


def test_mnist1d_is_the_published_set():
    published = mnist1d.data.make_dataset(mnist1d.data.get_dataset_args())
    loaded = data.load(DataSpec())
    for ours, theirs in ((loaded.x_train, "x"), (loaded.x_test, "x_test")):
        assert np.allclose(ours.numpy(), published[theirs], rtol=0, atol=1e-6)
    assert np.array_equal(loaded.y_clean.numpy(), published["y"]) and np.array_equal(loaded.y_test.numpy(), published["y_test"])
    assert loaded.x_train.shape == (4000, 40) and loaded.x_test.shape == (1000, 40) and loaded.classes == 10
    assert hashlib.sha256(loaded.x_train.numpy().round(3).tobytes()).hexdigest().startswith(PINNED)


def test_loading_leaves_the_global_generators_alone():
    data._mnist1d.cache_clear()
    random.seed(1), np.random.seed(1)
    before = random.random(), np.random.rand()
    random.seed(1), np.random.seed(1)
    data.load(DataSpec())
    assert (random.random(), np.random.rand()) == before


def test_noise_draws_a_share_of_the_points_and_changes_nine_tenths_of_them():
    clean = data.load(DataSpec(label_noise=0)).y_clean.numpy()
    shares = [(data.noisy_labels(clean, 0.2, 10, seed) != clean).mean() for seed in range(50)]
    assert np.mean(shares) == pytest.approx(0.18, abs=0.002)
    assert max(shares) <= 0.2
    drawn = data.noisy_labels(np.zeros(100_000, int), 0.5, 10, 0)
    assert np.allclose(np.bincount(drawn)[1:] / 100_000, 0.05, atol=0.003)


def test_noise_that_leaves_a_class_without_a_point_is_refused_with_the_way_out():
    with pytest.raises(
        SpecError, match=r"subset=20 with label_noise=0.5 and noise_seed=0 leaves class \d without a .* point: raise subset"
    ):
        data.load(DataSpec(name="digits", subset=20, label_noise=0.5))


def test_noise_has_a_seed_of_its_own():
    first, same, other = (data.load(DataSpec(noise_seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.y_noisy, same.y_noisy) and not torch.equal(first.y_noisy, other.y_noisy)
    assert torch.equal(first.y_clean, other.y_clean)
    assert torch.equal(first.flipped, first.y_noisy != first.y_clean) and 0.16 < first.flipped.float().mean() < 0.2
    assert not data.load(DataSpec(label_noise=0)).flipped.any()
