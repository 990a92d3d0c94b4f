"""A diagnostic for anybody's own training: how far the penultimate features of a PyTorch model have collapsed, epoch by epoch.

N points, d features, K classes. The metrics are those of `ncbook.metrics`, to 1e-6, from the batches of a loader instead of one tensor.

Source: [C] Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and recommendations", The American Statistician
37 (1983).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot, pad

from ncbook.analysis import estimate
from ncbook.fn.onset import trajectories
from ncbook.fn.predictor import signal
from ncbook.metrics import collapse_from_moments, disagreements

METRIC = "nc1_trace_ratio"
"""The column of `CollapseMonitor.history` whose fall below a threshold is the onset; for `metric` of `ncbook.fn.predictor.predictions`."""

_Batches = Callable[[Iterable[Any]], Iterator[tuple[Tensor, Tensor]]]


class PredictedOnset(NamedTuple):
    """An onset of collapse told by the feature norm, in epochs."""

    epoch: float
    low: float
    """With `high` the 95 % prediction interval for one more run; NaN where fewer than two leads are known."""
    high: float
    crossing: float
    """When the norm fell below fn*, interpolated between two measurements."""
    known_at: int
    """The epoch of the second of them."""


class CollapseMonitor:
    """Measures neural collapse and the feature norm of a model while it is trained, in constant memory.

        monitor = CollapseMonitor(model, classifier="fc")
        for epoch in range(1, 101):
            train_one_epoch(model)
            monitor.measure(loader)
        monitor.history

    Give one of two, each a module of the model or its name in `model.named_modules()`:

    - `classifier`: the last linear layer. What goes in are the features [points, d]; its `weight` [K, d] and `bias` are those of NC3, NC4.
    - `features`: a module that puts out the features, where no linear layer decides; there is no NC3 and no NC4 then.

    NC4 asks for each point which class mean is the nearest, and the means are known only when all points were seen: it takes a second pass
    over the loader. `nc4=False` leaves it out and measures in one pass.

    The model stays as it is. While it is measured it is in eval mode, without gradients and with one hook more; then each of its modules is
    in the mode it was in, and the hook is gone. Torch's own random numbers go on as if nothing had been measured; those of a `generator`
    that belongs to the loader do not.

    Raises `ValueError` for a module that the model does not have and for a classifier without a weight [K, d], `TypeError` unless exactly
    one of the two is given.
    """

    def __init__(
        self, model: nn.Module, *, classifier: nn.Module | str | None = None, features: nn.Module | str | None = None, nc4: bool = True
    ):
        if (classifier is None) == (features is None):
            raise TypeError("CollapseMonitor needs either classifier=, the last linear layer, or features=, a module that puts them out.")
        self._model = model
        self._name, self._module = _find(model, features if classifier is None else classifier)
        self._classifier = None if classifier is None else self._module
        self._nc4 = nc4
        self._rows: list[dict[str, Any]] = []
        weight = getattr(self._classifier, "weight", None)
        if classifier is not None and not (isinstance(weight, Tensor) and weight.dim() == 2):
            raise ValueError(
                f"classifier={self._name!r} is a {type(self._module).__name__} without a weight [classes, features]: "
                f"name a linear layer, or give the module that puts out the features as features=."
            )

    @property
    def history(self) -> pd.DataFrame:
        """One row for each `measure`, with what it returned."""
        return pd.DataFrame(self._rows)

    def measure(self, loader: Iterable[Any], epoch: int | None = None) -> dict[str, Any]:
        """Measures the model as it is now, on all points of `loader`, and adds a row to `history`.

        `loader` gives batches (inputs, labels, ...) of any size: inputs as the model takes them, labels [points] whole numbers 0..K−1. It
        is gone through once, and once more for NC4. `epoch` is the number of epochs trained so far; without it one more than the last.

        Returns epoch, feature_norm, nc1, nc1_trace_ratio, nc2_equinorm, nc2_equiangularity, nc2_gram and, with a classifier, nc3,
        nc3_uncentred, nc4 and train_error, the share of points that it gives another class than their label. Memory: one batch, and a few
        times d² + K d numbers in float64.

        Raises `ValueError` for features that are not [points, d] or not finite, for labels that do not fit them or are not classes of the
        classifier, for a class without a point, for a loader that is empty or has another number of points when it is gone through again,
        and for an epoch that is not after the last; `TypeError` for batches that are not (inputs, labels) and labels that are not integers.
        """
        last = self._rows[-1]["epoch"] if self._rows else 0
        epoch = last + 1 if epoch is None else epoch
        if self._rows and epoch <= last:
            raise ValueError(f"epoch={epoch} is not after the last that was measured, {last}: epochs must increase.")
        with self._watched() as batches:
            moments, mistakes = self._moments(batches, loader)
            head = self._head(moments.means)
            found = {name: value.item() for name, value in moments.collapse(head[0] if head else None).items()}
            if head and self._nc4:
                share = self._disagreeing(batches, loader, moments, *head)
                found["nc4"] = math.nan if math.isnan(found["nc1_trace_ratio"]) else share
            if head:
                found["train_error"] = mistakes / moments.points
        self._rows.append({"epoch": epoch, "feature_norm": moments.feature_norm, **found})
        return dict(self._rows[-1])

    def predicted_onset(self, fn_star: Iterable[float], leads: Iterable[float], *, switch: int = 0) -> PredictedOnset | None:
        """When NC1 will fall below the threshold for which `fn_star` and `leads` were found in earlier runs; None before the norm tells.

        `fn_star`: the feature norm of each run at its onset; `leads`: for each, the epochs from its norm's crossing of the fn* of the
        others until its onset. Both are columns of `ncbook.fn.predictor.predictions`; what is NaN there is passed over. The prediction is
        the crossing of their mean fn* plus their mean lead, its interval Student's t for one new value, lead ± t s √(1 + 1/n).

        What counts as a crossing is said in `ncbook.fn.predictor`: measured after epoch `switch`, where the loss was changed, if it was,
        and by a model that fits its training labels. The norm crashes right after a change of the loss, which is no sign of collapse.

        Raises `ValueError` where no fn* or no lead is known, and for a monitor without a classifier, which cannot tell a model that fits.
        """
        if self._classifier is None:
            raise ValueError("predicted_onset needs the training error, to tell collapse from a crash: give the monitor a classifier=.")
        level, lead = estimate(list(fn_star)), estimate(list(leads))
        if not (level.n and lead.n):
            raise ValueError(f"{level.n} values of fn* and {lead.n} leads are known: at least one of each, from earlier runs, is needed.")
        if not self._rows:
            return None
        _, path = next(trajectories(self.history.assign(key=0, switch=switch), METRIC))
        if (seen := signal(path, level.mean)) is None:
            return None
        epoch, half = seen.crossing + lead.mean, (lead.high - lead.mean) * math.sqrt(lead.n + 1)
        return PredictedOnset(epoch, epoch - half, epoch + half, seen.crossing, seen.known_at)

    def _head(self, like: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The classifier's weight and bias, of the kind and where `like` is."""
        if self._classifier is None:
            return None
        bias = getattr(self._classifier, "bias", None)
        return self._classifier.weight.detach().to(like), None if bias is None else bias.detach().to(like)

    def _moments(self, batches: _Batches, loader: Iterable[Any]) -> tuple["_Moments", int]:
        """The moments of all points, and for how many the classifier is wrong."""
        moments, mistakes = None, 0
        for features, labels in batches(loader):
            head = self._head(features)
            batch = _Moments.of(features, labels, len(head[0]) if head else int(labels.max()) + 1)
            moments = batch if moments is None else moments + batch
            mistakes += int((linear(features, *head).argmax(-1) != labels).sum()) if head else 0
        if moments is None:
            raise ValueError("the loader gave no batch: a DataLoader, or a list of batches, with points of every class is needed.")
        return moments, mistakes

    def _disagreeing(self, batches: _Batches, loader: Iterable[Any], moments: "_Moments", weight: Tensor, bias: Tensor | None) -> float:
        points = differ = 0
        for features, _ in batches(loader):
            points += len(features)
            differ += int(disagreements(features, moments.means, weight, bias).sum())
        if points != moments.points:
            raise ValueError(
                f"the loader gave {moments.points} points, but {points} in the second pass, for NC4: "
                f"give one that can be gone through twice, or set nc4=False."
            )
        return differ / points

    @contextmanager
    def _watched(self) -> Iterator[_Batches]:
        """Gives a function from a loader to the features [points, d] in float64 and labels [points] of its batches."""
        seen: list[Any] = []
        if self._classifier is None:
            hook = self._module.register_forward_hook(lambda _, given, output: seen.append(output))
        else:
            hook = self._module.register_forward_pre_hook(lambda _, given, named: seen.extend((*given, *named.values())), with_kwargs=True)
        modes = {module: module.training for module in self._model.modules()}
        device = next((parameter.device for parameter in self._model.parameters()), None)

        def batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
            torch.set_rng_state(drawn)  # each pass sees the same points, augmented alike
            for batch in loader:
                inputs, labels = _inputs_and_labels(batch)
                seen.clear()
                self._model(inputs.to(device))
                yield self._checked(seen, labels)

        try:
            self._model.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                drawn = torch.get_rng_state()
                yield batches
        finally:
            hook.remove()
            for module, mode in modes.items():
                module.training = mode

    def _checked(self, seen: list[Any], labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(seen) != 1:
            raise ValueError(f"the model called {self._name!r} {len(seen)} times for one batch: name a module that it calls once.")
        features, what = seen[0], f"the {'output' if self._classifier is None else 'input'} of {self._name!r}"
        if not isinstance(features, Tensor) or features.dim() != 2:
            found = f"has shape {list(features.shape)}" if isinstance(features, Tensor) else f"is a {type(features).__name__}"
            raise ValueError(f"{what} {found}, not [points, features]: name a module after pooling or flattening.")
        if labels.shape != features.shape[:1]:
            raise ValueError(f"labels {list(labels.shape)} do not fit {what} {list(features.shape)}: they need [points].")
        if not features.isfinite().all():
            raise ValueError(f"{what} holds NaN or infinite values: the training has diverged.")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0:
            raise ValueError(f"label {lowest} is no class: number the classes from 0.")
        if self._classifier is not None and highest >= (classes := len(self._classifier.weight)):
            raise ValueError(f"label {highest} is outside 0..{classes - 1}, the classes of {self._name!r}.")
        home = "cpu" if features.device.type == "mps" else features.device  # that kind has no float64
        return features.to(home).double(), labels.to(home).long()


@dataclass(frozen=True)
class _Moments:
    """What is kept of points that were seen. Sums are merged as in [C], without differences of large numbers: features far from the origin
    lose no digits."""

    counts: Tensor  # [K]
    means: Tensor  # [K, d], 0 for a class without a point
    scatter: Tensor  # [d, d], around the class means
    length: Tensor  # [], sum of ‖h_i‖

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> "_Moments":
        members = one_hot(labels, classes).to(features)
        counts = members.sum(0)
        means = members.T @ features / counts.clamp(min=1).unsqueeze(-1)
        residuals = features - means[labels]
        return cls(counts, means, residuals.T @ residuals, features.norm(dim=-1).sum())

    def __add__(self, other: "_Moments") -> "_Moments":
        a, b = (moments._of_classes(max(len(self.counts), len(other.counts))) for moments in (self, other))
        counts, step = a.counts + b.counts, b.means - a.means
        share = (b.counts / counts.clamp(min=1)).unsqueeze(-1)
        between = (a.counts.unsqueeze(-1) * share * step).T @ step
        return _Moments(counts, a.means + share * step, a.scatter + b.scatter + between, a.length + b.length)

    def _of_classes(self, classes: int) -> "_Moments":
        more = classes - len(self.counts)
        return _Moments(pad(self.counts, (0, more)), pad(self.means, (0, 0, 0, more)), self.scatter, self.length)

    @property
    def points(self) -> int:
        return int(self.counts.sum())

    @property
    def feature_norm(self) -> float:
        return float(self.length) / self.points

    def collapse(self, weight: Tensor | None) -> dict[str, Tensor]:
        return collapse_from_moments(self.counts, self.means, self.scatter, weight)


def _find(model: nn.Module, wanted: nn.Module | str) -> tuple[str, nn.Module]:
    """Name and module."""
    modules = {name or "the model": module for name, module in model.named_modules()}
    for name, module in modules.items():
        if wanted in (name, module):
            return name, module
    called = repr(wanted) if isinstance(wanted, str) else f"the given {type(wanted).__name__}"
    raise ValueError(f"{called} is no module of the {type(model).__name__}: its last ones are {', '.join(list(modules)[-8:])}.")


def _inputs_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2 or not all(isinstance(part, Tensor) for part in batch[:2]):
        raise TypeError(f"the loader gave a {type(batch).__name__}, not a batch (inputs, labels) of tensors: wrap it so that it does.")
    inputs, labels = batch[:2]
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels are {labels.dtype}, not whole numbers: class numbers 0..K−1 are needed.")
    return inputs, labels
