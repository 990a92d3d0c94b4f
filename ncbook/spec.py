"""What a run is: frozen, validated, and named by a hash of its own content.

A `RunSpec` says everything that decides a run's numbers, and nothing about where or how fast it was made (device, precision and
duration are provenance, and so is whether images came from the original files or from a copy that may be lossy). Equal specs have equal
keys on every machine, so a key is a run's name for good.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits": 1_500}
"""Sets of images, and how many training images each has."""
TRAINING_POINTS = {"mnist1d": 4_000, **IMAGES}
DATASETS = tuple(TRAINING_POINTS)
SIGNAL_MODELS = ("resnet1d", "cnn1d")
MODELS = (*SIGNAL_MODELS, "mlp", "resnet20")
ACTIVATIONS = ("relu", "tanh", "gelu")
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("constant", "cosine")
RECORDS = ("log", "dense", "phases")
REDUCTIONS = ("mean", "sum")
OPTIMIZER_STATES = ("kept", "reset")
TARGETS = ("features", "layers")
LARGEST = 2**31 - 1
"""The greatest whole number a spec may hold: what every library below takes as a seed or a size."""


class SpecError(ValueError):
    """A spec that cannot be run; the message names the value, the reason and the way out."""


def require_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises `SpecError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise SpecError(f"{name}={value!r} is unknown: choose one of {', '.join(allowed)}.")


def require_integer(name: str, value: Any, least: int, most: int = LARGEST) -> None:
    """Raises `SpecError` unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{name}={value!r} is not a whole number.")
    if value < least:
        raise SpecError(f"{name}={value} is too small: it must be at least {least}.")
    if value > most:
        raise SpecError(f"{name}={value} is too large: it must be at most {most:,}.")


def _number(name: str, value: Any, least: float, below: float = math.inf, open_left: bool = False) -> float:
    """The value as a float, 0 without a sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"{name}={value!r} is not a number.")
    if not (value > least if open_left else value >= least) or not value < below:
        left, right = ("(" if open_left else "["), ("∞" if below == math.inf else f"{below:g}")
        raise SpecError(f"{name}={value} is outside {left}{least:g}, {right}).")
    try:
        return float(value) + 0.0
    except OverflowError:
        raise SpecError(f"{name}={value} is too large: give a number that a float can hold.") from None


class _Spec:
    """What the spec classes share: plain dictionaries in and out."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def _changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, nested."""
        fields = {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name, default in fields.items() if getattr(self, name) != default}
        return {name: value._changed() if isinstance(value, _Spec) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]):
        """The inverse of `to_dict`. Raises `SpecError` for unknown and for missing fields."""
        if not isinstance(values, dict):
            raise SpecError(f"{values!r} is no {cls.__name__}: give its fields by name.")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - set(fields)):
            raise SpecError(f"{cls.__name__} has no field {', '.join(unknown)}: its fields are {', '.join(fields)}.")
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - set(values)):
            raise SpecError(f"{cls.__name__} needs {', '.join(missing)}.")
        nested = {
            name: kind.from_dict(values[name])
            for name, f in fields.items()
            for kind in (f.type, *get_args(f.type))
            if isinstance(kind, type) and issubclass(kind, _Spec) and isinstance(values.get(name), dict)
        }
        return cls(**{**values, **nested})


@dataclass(frozen=True, kw_only=True)
class DataSpec(_Spec):
    """A data set and the noise put on its training labels."""

    name: str = "mnist1d"
    label_noise: float = 0.2
    """Share of the training points whose label is drawn anew, uniformly from all classes; in [0, 1)."""
    noise_seed: int = 0
    """Seed of that draw, independent of the seed of the run."""
    subset: int | None = None
    """Train on so many images only, the same ones for every run and equally many of each class; None: on all."""

    def __post_init__(self) -> None:
        require_choice("data.name", self.name, DATASETS)
        if self.subset is not None:
            require_integer("data.subset", self.subset, 10)
            if self.name not in IMAGES:
                raise SpecError(f"data.subset={self.subset}: {self.name} is used whole; leave it out or choose one of {', '.join(IMAGES)}.")
            if self.subset > IMAGES[self.name]:
                most = f"{IMAGES[self.name]:,} training images"
                raise SpecError(f"data.subset={self.subset}: {self.name} has {most}; choose a number up to that, or all.")
        object.__setattr__(self, "label_noise", _number("data.label_noise", self.label_noise, 0, below=1))
        require_integer("data.noise_seed", self.noise_seed, 0)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Spec):
    """A network's shape."""

    name: str
    width: int
    """Channels of the first block; units of a hidden layer (`mlp`)."""
    feature_dim: int | None = None
    """Dimension of a linear projector before the classifier (`resnet1d` only); None: no projector."""
    depth: int | None = None
    """Number of hidden layers (`mlp` only, 1 to 10)."""
    activation: str = "relu"
    """`relu`, `tanh` or `gelu` (`mlp`; the other networks have ReLU)."""

    def __post_init__(self) -> None:
        require_choice("model.name", self.name, MODELS)
        require_integer("model.width", self.width, 1)
        require_choice("model.activation", self.activation, ACTIVATIONS)
        if self.name == "mlp":
            if self.depth is None:
                raise SpecError("model.depth is missing: an mlp needs its number of hidden layers, 1 to 10.")
            require_integer("model.depth", self.depth, 1)
            if self.depth > 10:
                raise SpecError(f"model.depth={self.depth} is too large: an mlp here has 1 to 10 hidden layers.")
        elif self.depth is not None:
            raise SpecError(f"model.depth={self.depth}: the depth of {self.name} is fixed; leave it out.")
        elif self.activation != "relu":
            raise SpecError(f"model.activation={self.activation!r}: {self.name} has ReLU only; use mlp or leave it out.")
        if self.feature_dim is not None:
            require_integer("model.feature_dim", self.feature_dim, 1)
            if self.name != "resnet1d":
                raise SpecError(f"model.feature_dim={self.feature_dim}: {self.name} has no projector; use resnet1d or leave it out.")
            if self.feature_dim > self.width:
                raise SpecError(
                    f"model.feature_dim={self.feature_dim} exceeds model.width={self.width}: a linear projector adds no dimensions "
                    "to those that exist; lower feature_dim or raise width."
                )


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(_Spec):
    """An optimiser. Weight decay is L2 in the gradient for both."""

    name: str
    lr: float
    momentum: float = 0.0
    """SGD only."""
    weight_decay: float = 0.0
    schedule: str = "constant"
    """`constant`, or `cosine`: annealed to 0 once per epoch over all epochs."""

    def __post_init__(self) -> None:
        require_choice("optimizer.name", self.name, OPTIMIZERS)
        object.__setattr__(self, "lr", _number("optimizer.lr", self.lr, 0, open_left=True))
        object.__setattr__(self, "momentum", _number("optimizer.momentum", self.momentum, 0, below=1))
        object.__setattr__(self, "weight_decay", _number("optimizer.weight_decay", self.weight_decay, 0))
        require_choice("optimizer.schedule", self.schedule, SCHEDULES)
        if self.name != "sgd" and self.momentum != 0:
            raise SpecError(f"optimizer.momentum={self.momentum}: {self.name} takes no momentum; leave it out.")


@dataclass(frozen=True, kw_only=True)
class SwitchSpec(_Spec):
    """The change from cross-entropy to the squared distance between the logits and the one-hot labels."""

    epoch: int
    """Last epoch of cross-entropy; 0: squared distance from the start."""
    reduction: str = "mean"
    """Over the classes: `mean` or `sum`. Over the batch it is always the mean."""
    optimizer_state: str = "kept"
    """`kept`: momentum and Adam's moments go on; `reset`: they start anew."""

    def __post_init__(self) -> None:
        require_integer("switch.epoch", self.epoch, 0)
        require_choice("switch.reduction", self.reduction, REDUCTIONS)
        require_choice("switch.optimizer_state", self.optimizer_state, OPTIMIZER_STATES)


@dataclass(frozen=True, kw_only=True)
class InterventionSpec(_Spec):
    """Scaling the features of a ReLU `mlp` once, by scaling the weights and biases that make them. The classifier stays as it is."""

    epoch: int
    """After this epoch, once it has been measured."""
    factor: float
    target: str = "features"
    """`features`: through the last hidden layer alone; `layers`: through all hidden layers, equally."""

    def __post_init__(self) -> None:
        require_integer("intervention.epoch", self.epoch, 1)
        object.__setattr__(self, "factor", _number("intervention.factor", self.factor, 0, open_left=True))
        require_choice("intervention.target", self.target, TARGETS)


@dataclass(frozen=True, kw_only=True)
class StopSpec(_Spec):
    """An early end: at the first recorded epoch that lies `margin` epochs after NC1 (trace ratio, true labels) fell below `nc1`.

    Where the loss changes, only recorded epochs after the change count. A network whose NC1 is undefined ends at once: it diverged, or its
    features have become one point.
    """

    nc1: float
    margin: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "nc1", _number("stop.nc1", self.nc1, 0, open_left=True))
        require_integer("stop.margin", self.margin, 0)


@dataclass(frozen=True, kw_only=True)
class RunSpec(_Spec):
    """One network trained once."""

    model: ModelSpec
    optimizer: OptimizerSpec
    epochs: int
    seed: int
    """Initial weights and the order of the training points: what `torch.manual_seed(seed)` gives plain modules."""
    data: DataSpec = field(default_factory=DataSpec)
    batch_size: int = 128
    """The last, short batch of an epoch is kept."""
    record: str = "log"
    """Which epochs are measured, see `recorded_epochs`."""
    snapshots: tuple[int, ...] = ()
    """Epochs after which the weights are kept with the run."""
    switch: SwitchSpec | None = None
    """None: cross-entropy to the end."""
    intervention: InterventionSpec | None = None
    stop: StopSpec | None = None
    """None: all epochs are trained."""

    def __post_init__(self) -> None:
        kinds = {"model": ModelSpec, "optimizer": OptimizerSpec, "data": DataSpec}
        optional = {"switch": SwitchSpec, "intervention": InterventionSpec, "stop": StopSpec}
        kinds |= {name: kind for name, kind in optional.items() if getattr(self, name) is not None}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise SpecError(f"{name}={getattr(self, name)!r} is not a {kind.__name__}.")
        require_integer("epochs", self.epochs, 1)
        require_integer("seed", self.seed, 0)
        require_integer("batch_size", self.batch_size, 2)
        require_choice("record", self.record, RECORDS)
        if not isinstance(self.snapshots, (tuple, list)):
            raise SpecError(f"snapshots={self.snapshots!r} is not a list of epochs.")
        for epoch in self.snapshots:
            require_integer("snapshots", epoch, 0)
            if epoch > self.epochs:
                raise SpecError(f"snapshots={epoch} lies after the last epoch, {self.epochs}.")
        object.__setattr__(self, "snapshots", tuple(sorted(set(self.snapshots))))
        self._check_together()

    def _check_together(self) -> None:
        """What no part can check alone."""
        signals = self.data.name not in IMAGES
        if signals != (self.model.name in SIGNAL_MODELS):
            fitting = SIGNAL_MODELS if signals else tuple(name for name in MODELS if name not in SIGNAL_MODELS)
            raise SpecError(f"model.name={self.model.name!r} does not take {self.data.name}: choose one of {', '.join(fitting)}.")
        if self.data.name == "digits" and self.model.name == "resnet20":
            raise SpecError("data.name='digits': its images of 8x8 are too small for resnet20; choose an mlp or other images.")
        for name in ("switch", "intervention"):
            part = getattr(self, name)
            if part is not None and part.epoch >= self.epochs:
                raise SpecError(f"{name}.epoch={part.epoch} leaves nothing after it: it must be less than epochs={self.epochs}.")
        if self.intervention is not None and (self.model.name, self.model.activation) != ("mlp", "relu"):
            raise SpecError(
                "intervention: only a ReLU mlp's features scale exactly with its weights; choose model mlp with activation relu."
            )
        if self.stop is not None and self.snapshots:
            raise SpecError(f"snapshots={list(self.snapshots)}: a run with stop may end before them; leave one of the two out.")

    @property
    def canonical(self) -> str:
        """The spec as canonical JSON: sorted keys, no spaces, shortest exact floats, fields at their default left out.

        A field added later therefore renames no older run; in return, a default, once published, never changes.
        """
        return json.dumps(self._changed(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def key(self) -> str:
        """The run's name: 20 hexadecimal digits of the SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:20]

    @property
    def recorded_epochs(self) -> tuple[int, ...]:
        """Epochs after which the network is measured, always the first and the last among them.

        `log`: about ten to a decade. `dense`: every epoch up to 100, then every 200. `phases`: every fifth, and each of the first ten
        of the run, after the switch and after the intervention. A run with `stop` may end before the last ones.
        """
        if self.record == "dense":
            chosen = {*range(1, min(self.epochs, 100) + 1), *range(200, self.epochs + 1, 200)}
        elif self.record == "phases":
            starts = [0, *(part.epoch for part in (self.switch, self.intervention) if part)]
            chosen = {*range(5, self.epochs, 5)} | {start + i for start in starts for i in range(1, 11) if start + i < self.epochs}
        else:
            chosen = {round(10 ** (i / 10)) for i in range(int(10 * math.log10(self.epochs)) + 1)}
        return tuple(sorted(chosen | {1, self.epochs}))
