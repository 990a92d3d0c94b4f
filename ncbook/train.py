"""Train a stack: networks of one shape, as one program.

Members differ in seed, optimiser and label noise. Each has its own random generators, so what becomes of a member does not depend on who
shares its stack, but for rounding: products of a larger stack, or on another processor, are rounded otherwise, which in float32 makes long
runs part ways. Knows models, data and metrics; knows no file and no notebook.
"""

import contextlib
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, one_hot

from ncbook import data, metrics, models
from ncbook.optimizers import Optimizer
from ncbook.spec import TRAINING_POINTS, RunSpec

DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bf16": torch.float32}
"""Names of the precisions, and the type of the weights under each. `tf32` rounds what enters the products of training, `bf16` also what
comes out of them, activations and gradients included."""

_EVAL_CHUNK = 500  # points measured at once
_GEOMETRY_SIZE = 2**25  # features (members x points x dimensions) whose collapse is measured at once
_PIXELS = {"mnist": 784, "fashion_mnist": 784, "cifar10": 3072, "digits": 64}
_MLP_MEMBERS, _MLP_BYTES, _RESNET20_MEMBERS = 9, 6_000_000, 3  # at most, of a stack on a CPU


def stack_key(spec: RunSpec) -> Hashable:
    """Specs with equal keys fit one stack: they differ in seeds, optimiser, label noise and factor of an intervention."""
    scaled = spec.intervention and (spec.intervention.epoch, spec.intervention.target)
    course = (spec.epochs, spec.batch_size, spec.record, spec.snapshots, spec.switch, scaled, spec.stop)
    return (spec.model, spec.data.name, spec.data.subset, spec.data.label_noise > 0, *course)


def stack_size(spec: RunSpec, device: str, dtype: str) -> int:
    """How many members to train at once: on a CPU as many as keep in its cache what they read most, activations or an MLP's weights."""
    if device != "cpu":
        return 64
    if spec.model.name == "mlp":
        bytes_each = 2 if dtype == "bf16" else 4
        return min(_MLP_MEMBERS, max(1, _MLP_BYTES // (bytes_each * _mlp_weights(spec))))
    if spec.model.name == "resnet20":
        return _RESNET20_MEMBERS
    for width, members in ((2, 32), (8, 16), (16, 8), (48, 4)):
        if spec.model.width <= width:
            return members
    return 2


def estimate_seconds(spec: RunSpec) -> float:
    """Seconds that one CPU core of 2021 (about 60 GFLOP/s) needs for this run, to its last epoch, in a small stack."""
    width, points = spec.model.width, spec.data.subset or TRAINING_POINTS[spec.data.name]
    if spec.model.name == "mlp":
        weights = _mlp_weights(spec)
        return spec.epochs * (points * weights * 6 / 60e9 + points / spec.batch_size * weights * 4e-9)
    if spec.model.name == "resnet20":
        return spec.epochs * points * _PIXELS[spec.data.name] / 3072 * 6 * (4.1e7 * (width / 16) ** 2 + 1e7 * width / 16) / 40e9
    per_step = 1.5 + 0.1 * width + (0.006 if spec.model.name == "resnet1d" else 0.004) * width**2
    return spec.epochs * points / 128 * per_step / 1000


class StackTrainer:
    """The training of one stack: call `run_epoch` until `done`, then take the `results`.

    Raises `ValueError` if the specs do not fit one stack, or the precision does not exist on the device.
    """

    def __init__(self, specs: Sequence[RunSpec], *, device: str = "cpu", dtype: str = "float32") -> None:
        if len({stack_key(spec) for spec in specs}) != 1:
            raise ValueError("These specs do not fit one stack: they must share model, data, epochs, batch size, course and records.")
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}.")
        if dtype == "tf32" and device == "cpu":
            raise ValueError("dtype='tf32' exists on CUDA devices only: use float32 or bf16 on the CPU.")
        self.specs, self.device, self.dtype = list(specs), torch.device(device), dtype
        self.spec = specs[0]
        self.epochs, self.epoch = self.spec.epochs, 0
        self._steps = 0  # of the optimiser in its present state
        self._squared = False  # whether the loss in use is the squared distance

        sets = [data.load(spec.data) for spec in specs]
        kind = DTYPES[dtype]
        self._x, self._x_test = (x.to(self.device, kind) for x in (sets[0].x_train, sets[0].x_test))
        self._clean, self._test = sets[0].y_clean.to(self.device), sets[0].y_test.to(self.device)
        self._noisy = torch.stack([d.y_noisy for d in sets]).to(self.device)

        shape = self.spec.model
        self.model = models.build(shape, len(specs), self._x.shape[1:]).to(self.device, kind)
        self.model.reset([spec.seed for spec in specs])
        self._generators = [torch.Generator(self.device).manual_seed(spec.seed) for spec in specs]
        self._parameters = list(self.model.parameters())
        self._flat = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        offset = 0
        for p in self._parameters:
            p.data = self._flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        self._inputs, self._rounded = self._x, {}
        if dtype == "bf16" and device == "cpu":
            # Autocast would round them at every step, and widen their gradients; the optimiser does both in passing.
            self._inputs = self._x.bfloat16()
            self._rounded = {name: self.model.get_parameter(name).detach().bfloat16().requires_grad_() for name in self.model.multiplied()}
        self._leaves = [self._rounded.get(name, p) for name, p in self.model.named_parameters()]
        rounded = {i: leaf.detach().flatten() for i, leaf in enumerate(self._leaves) if leaf is not self._parameters[i]}
        sizes = [p[0].numel() for p in self._parameters]
        self._optimizer = Optimizer(self._flat, sizes, [spec.optimizer for spec in specs], rounded=rounded)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

        self._recorded: list[int] = []
        self._metrics: dict[str, list[Tensor]] = {}
        self._states: dict[int, dict[str, Tensor]] = {}
        self._keep()

    @property
    def ended(self) -> list[bool]:
        """For each member, whether its training is over: after the last epoch, or where its `stop` says so."""
        return [self.epoch >= self.epochs or records is not None for records in self._early_ends()]

    @property
    def done(self) -> bool:
        return all(self.ended)

    def run_epoch(self) -> None:
        """Train every member for one epoch; measure and keep weights where the spec says so."""
        points = self._x.shape[0]
        self._change_course()
        annealed = (1 + math.cos(math.pi * self.epoch / self.epochs)) / 2
        factors = [annealed if spec.optimizer.schedule == "cosine" else 1.0 for spec in self.specs]
        order = torch.stack([torch.randperm(points, generator=g, device=self.device) for g in self._generators])
        self.model.train()
        step = self._step if self.device.type == "cpu" else self._captured_step
        with torch.no_grad():
            for name, copy in self._rounded.items():  # what was restored or scaled since the last epoch is not rounded yet
                copy.copy_(self.model.get_parameter(name))
        _allow_tf32(self.dtype == "tf32")
        for batch in order.split(self.spec.batch_size, dim=1):
            self._steps += 1
            self._optimizer.prepare(self._steps, factors)
            step(batch)
        _allow_tf32(False)
        self.epoch += 1
        if self.epoch in self.spec.recorded_epochs:
            self._recorded.append(self.epoch)
            for name, values in self._measure().items():
                self._metrics.setdefault(name, []).append(values)
        self._keep()

    def results(self) -> list[dict[str, Any]]:
        """One dictionary per member: `epochs` [R], `metrics` name -> [R], `states` epoch -> name -> array, `parameters`."""
        stacked = {name: torch.stack(values).numpy() for name, values in self._metrics.items()}
        return [
            {
                "epochs": np.array(self._recorded[:records]),
                "metrics": {name: values[:records, member] for name, values in stacked.items()},
                "states": {epoch: {n: v[member].numpy() for n, v in state.items()} for epoch, state in self._states.items()},
                "parameters": self.model.parameters_per_member(),
            }
            for member, records in enumerate(self._early_ends())
        ]

    def checkpoint(self) -> list[dict[str, np.ndarray]]:
        """What each member needs to go on, in this stack or in another one whose members are at the same epoch."""
        checkpoints = []
        for member, (result, generator) in enumerate(zip(self.results(), self._generators)):
            saved = {"epoch": np.array(self.epoch), "steps": np.array(self._steps), "generator": generator.get_state().cpu().numpy()}
            for i, flat in enumerate([self._flat, *self._optimizer.state]):
                saved[f"flat.{i}"] = torch.cat([part[member].reshape(-1) for part in self._parts(flat)]).cpu().numpy()
            saved |= {f"buffer.{name}": buffer[member].cpu().numpy() for name, buffer in self.model.named_buffers()}
            saved |= {"epochs": result["epochs"]} | {f"metric.{name}": values for name, values in result["metrics"].items()}
            saved |= {f"state.{epoch}.{name}": v for epoch, state in result["states"].items() for name, v in state.items()}
            checkpoints.append(saved)
        return checkpoints

    def restore(self, checkpoints: Sequence[dict[str, np.ndarray]]) -> None:
        """Go on from checkpoints, one per member, all at the same epoch. On the CPU the numbers are those of a run never stopped."""
        if len({int(c["epoch"]) for c in checkpoints}) != 1 or len(checkpoints) != len(self.specs):
            raise ValueError("A stack resumes from one checkpoint per member, all at the same epoch.")
        first = checkpoints[0]
        self.epoch, self._steps, self._recorded = int(first["epoch"]), int(first["steps"]), first["epochs"].tolist()
        buffers = dict(self.model.named_buffers())
        for member, (saved, generator) in enumerate(zip(checkpoints, self._generators)):
            generator.set_state(torch.from_numpy(saved["generator"]))
            for i, flat in enumerate([self._flat, *self._optimizer.state]):
                parts = [part[member] for part in self._parts(flat)]
                pieces = torch.from_numpy(saved[f"flat.{i}"]).split([part.numel() for part in parts])
                for part, piece in zip(parts, pieces):
                    part.copy_(piece.view(part.shape))
            for name, buffer in buffers.items():
                buffer[member] = torch.from_numpy(saved[f"buffer.{name}"])
        names = dict.fromkeys(name for saved in checkpoints for name in saved)
        unknown = np.full(len(self._recorded), np.nan)  # what older checkpoints lack of a member that diverged before its first record
        together = {name: torch.stack([torch.from_numpy(c.get(name, unknown)) for c in checkpoints]) for name in names}
        self._metrics = {n.removeprefix("metric."): list(v.unbind(1)) for n, v in together.items() if n.startswith("metric.")}
        self._states = {}
        for name, values in together.items():
            if name.startswith("state."):
                _, epoch, tensor = name.split(".", 2)
                self._states.setdefault(int(epoch), {})[tensor] = values

    def _early_ends(self) -> list[int | None]:
        """For each member, how many of the records belong to it if its `stop` ended it; None if it did not."""
        stop, since = self.spec.stop, self.spec.switch.epoch if self.spec.switch else 0
        if stop is None or not self._recorded:
            return [None] * len(self.specs)
        epochs, ratio = np.array(self._recorded), torch.stack(self._metrics["nc1_trace_ratio_clean"]).numpy().T
        ends: list[int | None] = []
        for values in ratio:
            crossed = epochs[(values < stop.nc1) & (epochs > since)]
            over = np.isnan(values) if not len(crossed) else np.isnan(values) | (epochs >= crossed[0] + stop.margin)
            ends.append(int(over.argmax()) + 1 if over.any() else None)
        return ends

    def _change_course(self) -> None:
        """What happens between two epochs: the loss changes and the optimiser may start anew, features are scaled."""
        switch, intervention = self.spec.switch, self.spec.intervention
        squared = switch is not None and self.epoch >= switch.epoch
        if squared != self._squared:
            self._squared = squared
            self._graphs.clear()
        if switch and self.epoch == switch.epoch and switch.optimizer_state == "reset":
            self._steps = 0
            for state in self._optimizer.state:
                state.zero_()
        if intervention and self.epoch == intervention.epoch:
            factors = [spec.intervention.factor for spec in self.specs]
            self.model.scale_features(torch.tensor(factors, dtype=self._flat.dtype, device=self.device), intervention.target)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss in use at each point: logits `[..., classes]`, labels `[...]` -> `[...]`."""
        if not self._squared:
            return cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        squares = (logits - one_hot(labels, logits.shape[-1])).square()
        return squares.mean(-1) if self.spec.switch.reduction == "mean" else squares.sum(-1)

    def _step(self, batch: Tensor) -> None:
        """One optimisation step on the points `batch` `[members, batch]`; the loss is the sum over members of each one's mean."""
        with self._autocast():
            x = self._inputs.index_select(0, batch.flatten()).unflatten(0, batch.shape)
            logits = functional_call(self.model, self._rounded, x) if self._rounded else self.model(x)
        labels = self._noisy.gather(1, batch)
        loss = self._losses(logits.to(self._flat.dtype), labels).sum() / batch.shape[1]
        gradients = torch.autograd.grad(loss, self._leaves)
        with torch.no_grad():
            self._optimizer.step(gradients)

    def _captured_step(self, batch: Tensor) -> None:
        """`_step` as a CUDA graph, one for each size of batch, for the loss in use."""
        size = batch.shape[1]
        if size not in self._graphs:
            static = batch.clone()
            changed = [self._flat, *self._optimizer.state, *self.model.buffers()]
            before = [t.clone() for t in changed]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._step(static)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step(static)
            for tensor, value in zip(changed, before):
                tensor.copy_(value)
            self._graphs[size] = (graph, static)
        graph, static = self._graphs[size]
        static.copy_(batch)
        graph.replay()

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.dtype == "bf16" else contextlib.nullcontext()

    @torch.no_grad()
    def _measure(self) -> dict[str, Tensor]:
        """Every metric of every member, in eval mode and full precision: name -> `[members]`, float64, on the CPU; NaN where diverged."""
        self.model.eval()
        features, logits = self._evaluate(self._x)
        test_logits = self._evaluate(self._x_test)[1]
        clean = self._clean.expand_as(self._noisy)
        test = self._test.expand(len(self.specs), -1)
        guess, flipped = logits.argmax(-1), self._noisy != clean
        found = {
            "train_loss": self._losses(logits.double(), self._noisy).mean(1),
            "test_loss": self._losses(test_logits.double(), test).mean(1),
            "train_error": _mean(guess != self._noisy),
            "train_error_clean": _mean(guess != clean),
            "test_error": _mean(test_logits.argmax(-1) != test),
        }
        labellings = {"clean": clean}
        if self.spec.data.label_noise:
            labellings = {"noisy": self._noisy, "clean": clean}
            found["accuracy_unflipped"] = _mean(guess == clean, ~flipped)
            found["accuracy_flipped"] = _mean(guess == self._noisy, flipped)
            found["accuracy_flipped_clean"] = _mean(guess == clean, flipped)
        finite = features.isfinite().all((1, 2)) & test_logits.isfinite().all((1, 2))
        at_once = max(1, _GEOMETRY_SIZE // features[0].numel())
        parts = [self._geometry(features, finite, labellings, slice(i, i + at_once)) for i in range(0, len(features), at_once)]
        found |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {name: values.double().where(finite, torch.nan).cpu() for name, values in found.items()}

    def _geometry(self, features: Tensor, finite: Tensor, labellings: dict[str, Tensor], members: slice) -> dict[str, Tensor]:
        """The metrics of neural collapse of some members, by name; those of zeros for a member that is not finite."""
        classifier, known = self.model.classifier, finite[members, None, None]
        features, weight = features[members].where(known, 0), classifier.weight[members].where(known, 0)
        bias = None if classifier.bias is None else classifier.bias[members].where(known[..., 0], 0)
        found = {"feature_norm": metrics.feature_norm(features)}
        found |= {f"squared_norm_{layer}": value[members] for layer, value in self.model.squared_norms().items()}
        found |= {f"nc2_weight_{name}": value for name, value in metrics.nc2_weight(weight)._asdict().items()}
        for labelling, labels in labellings.items():
            collapse = metrics.collapse_metrics(features, labels[members], weight, bias)
            found |= {f"{name}_{labelling}": value for name, value in collapse.items()}
        return found

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits `[members, points, dim]` of all points x `[points, ...]`."""
        parts = []
        for chunk in x.split(_EVAL_CHUNK):
            shared = chunk.expand(len(self.specs), *chunk.shape)
            parts.append(self.model.activations(shared, ("features", "logits")).values())
        features, logits = zip(*parts)
        return torch.cat(features, 1), torch.cat(logits, 1)

    def _keep(self) -> None:
        if self.epoch in self.spec.snapshots:
            self._states[self.epoch] = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def _parts(self, flat: Tensor) -> Iterator[Tensor]:
        """A flat vector as one view `[members, ...]` per parameter."""
        offset = 0
        for p in self._parameters:
            yield flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()


def _allow_tf32(allowed: bool) -> None:
    """Lets a GPU round what goes into products and convolutions of float32, or not; a CUDA graph keeps what held at its capture."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _mlp_weights(spec: RunSpec) -> int:
    """How many there are in the hidden layers."""
    return _PIXELS[spec.data.name] * spec.model.width + (spec.model.depth - 1) * spec.model.width**2


def _mean(values: Tensor, where: Tensor | None = None) -> Tensor:
    """Share of true values by member, among those points only; NaN if there are none."""
    if where is None:
        return values.double().mean(1)
    return (values & where).sum(1).double() / where.sum(1)
