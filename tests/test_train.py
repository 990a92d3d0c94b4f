"""The stack against plain PyTorch, and against itself stopped, resumed and recomposed."""

import contextlib
import dataclasses
import math

import numpy as np
import plain
import pytest
import torch

from ncbook import data, metrics, models
from ncbook.images import ImageSet
from ncbook.optimizers import Optimizer
from ncbook.spec import DataSpec, InterventionSpec, ModelSpec, OptimizerSpec, RunSpec, StopSpec, SwitchSpec
from ncbook.train import StackTrainer, stack_key

SGD = dict(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine")
ADAM = dict(name="adam", lr=1e-3, weight_decay=1e-4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec(model="resnet1d", width=4, feature_dim=None, optimizer=SGD, seed=0, epochs=1, **kwargs):
    shape = ModelSpec(name=model, width=width, feature_dim=feature_dim)
    return RunSpec(model=shape, optimizer=OptimizerSpec(**optimizer), epochs=epochs, seed=seed, **kwargs)


def trained(specs, **kwargs):
    trainer = StackTrainer(specs, **kwargs)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


@pytest.mark.parametrize("shape", [("resnet1d", 4, None), ("resnet1d", 6, 3), ("cnn1d", 3, None), ("cnn1d", 16, None)], ids=str)
def test_stack_equals_plain_networks_trained_apart(shape):
    """Two epochs (64 steps, two of them on the short batch) in float64: mixed optimisers, learning rates, weight decays, seeds, noise."""
    members = [
        spec(
            *shape, optimizer | dict(lr=optimizer["lr"] * factor, weight_decay=decay), seed=seed, epochs=2, data=DataSpec(noise_seed=noise)
        )
        for optimizer, seed, factor, decay, noise in (
            (SGD, 0, 1, 5e-4, 0),
            (ADAM, 7, 2, 0.0, 0),
            (SGD | dict(momentum=0.5), 3, 2, 1e-2, 5),
            (ADAM, 4, 1, 1e-2, 5),
        )
    ]
    trainer = trained(members, dtype="float64")
    for member, (single, result) in enumerate(zip(members, trainer.results())):
        noisy = data.load(single.data)
        network = plain.train(single, noisy.x_train, noisy.y_noisy)
        state = network.state_dict()
        for name, value in trainer.model.state_dict().items():
            assert torch.allclose(value[member], state[name], rtol=0, atol=1e-10), name
        with torch.no_grad():
            x = noisy.x_train.double()
            features, logits, test_logits = network.features(x), network(x), network(noisy.x_test.double())
        last = {name: values[-1] for name, values in result["metrics"].items()}
        assert last["train_error"] == (logits.argmax(1) != noisy.y_noisy).double().mean()
        assert last["test_error"] == (test_logits.argmax(1) != noisy.y_test).double().mean()
        flipped = noisy.flipped
        assert last["accuracy_flipped"] == pytest.approx((logits.argmax(1) == noisy.y_noisy)[flipped].double().mean().item(), abs=1e-12)
        assert last["accuracy_flipped_clean"] == pytest.approx(
            (logits.argmax(1) == noisy.y_clean)[flipped].double().mean().item(), abs=1e-12
        )
        assert last["accuracy_unflipped"] == pytest.approx((logits.argmax(1) == noisy.y_noisy)[~flipped].double().mean().item(), abs=1e-12)
        assert last["train_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, noisy.y_noisy).item(), abs=1e-10)
        weight = network.classifier.weight.detach()
        for labelling, labels in (("noisy", noisy.y_noisy), ("clean", noisy.y_clean)):
            for name, value in metrics.collapse_metrics(features, labels, weight).items():
                assert last[f"{name}_{labelling}"] == pytest.approx(value.item(), rel=1e-7), name


@pytest.fixture
def small_cifar(monkeypatch):
    """Fifty training images of 12x12 pixels in three channels instead of CIFAR-10."""
    random = np.random.default_rng(0)

    def images(number):
        return random.integers(0, 256, (number, 3, 12, 12), dtype=np.uint8), np.arange(number) % 10

    made = ImageSet(*images(50), *images(20), "random")
    data.load.cache_clear()
    monkeypatch.setattr(data, "load_images", lambda name: made)
    yield
    data.load.cache_clear()


def in_phases(model, optimizer=ADAM, epochs=4, **kwargs):
    name = "cifar10" if model.name == "resnet20" else "digits"
    subset = None if model.name == "resnet20" else 120
    course = dict(data=DataSpec(name=name, label_noise=0, subset=subset), batch_size=32, record="phases") | kwargs
    return RunSpec(model=model, optimizer=OptimizerSpec(**optimizer), epochs=epochs, **{"seed": 0, **course})


TANH = ModelSpec(name="mlp", depth=3, width=12, activation="tanh")
GELU = ModelSpec(name="mlp", depth=1, width=12, activation="gelu")
RELU = ModelSpec(name="mlp", depth=2, width=12)
WIDE = ModelSpec(name="mlp", depth=3, width=160)
RESNET20 = ModelSpec(name="resnet20", width=4)


@pytest.mark.parametrize(
    "course",
    [
        dict(model=TANH, switch=SwitchSpec(epoch=2)),
        dict(model=GELU, switch=SwitchSpec(epoch=1, reduction="sum", optimizer_state="reset")),
        dict(model=RELU, switch=SwitchSpec(epoch=1, reduction="sum"), intervention=InterventionSpec(epoch=2, factor=2)),
        dict(
            model=RELU,
            switch=SwitchSpec(epoch=2, optimizer_state="reset"),
            intervention=InterventionSpec(epoch=3, factor=2, target="layers"),
        ),
        dict(model=RESNET20, switch=SwitchSpec(epoch=2)),
    ],
    ids=["tanh", "gelu", "features scaled", "layers scaled", "resnet20"],
)
def test_phases_equal_plain_networks_trained_apart(course, small_cifar, monkeypatch):
    """Mixed optimisers, seeds, weight decays and factors of intervention through the change of the loss, in float64."""
    if course["model"].name == "mlp":
        monkeypatch.undo()
        data.load.cache_clear()
    members = []
    constant = SGD | dict(schedule="constant")
    for optimizer, seed, decay, factor in ((ADAM, 0, 0.0, 0.5), (constant, 5, 1e-2, 3.0), (ADAM, 2, 1e-3, 2.0), (constant, 1, 0.0, 0.5)):
        one = in_phases(optimizer=optimizer | dict(weight_decay=decay), seed=seed, **course)
        if one.intervention:
            one = dataclasses.replace(one, intervention=dataclasses.replace(one.intervention, factor=factor))
        members.append(one)
    trainer = trained(members, dtype="float64")
    for member, (single, result) in enumerate(zip(members, trainer.results())):
        points = data.load(single.data)
        network = plain.train(single, points.x_train, points.y_clean)
        for name, value in network.state_dict().items():
            if "num_batches" not in name:
                assert torch.allclose(trainer.model.state_dict()[name][member], value, rtol=1e-9, atol=1e-10), name
        with torch.no_grad():
            x = points.x_train.double()
            features, logits = network.features(x), network(x)
        last = {name: values[-1] for name, values in result["metrics"].items()}
        assert last["train_loss"] == pytest.approx(plain.loss(single, 4, logits, points.y_clean).item(), rel=1e-9)
        assert last["feature_norm"] == pytest.approx(features.norm(dim=1).mean().item(), rel=1e-9)
        head = network.classifier
        layers = [[*layer.parameters()] for layer in network.hidden] + [[head.weight]] if course["model"].name == "mlp" else []
        squares = [sum(parameter.square().sum().item() for parameter in layer) for layer in layers]
        assert [value for name, value in last.items() if name.startswith("squared_norm_")] == pytest.approx(squares, rel=1e-9)
        for name, value in metrics.collapse_metrics(features, points.y_clean, head.weight.detach(), head.bias.detach()).items():
            assert last[f"{name}_clean"] == pytest.approx(value.item(), rel=1e-7), name
        assert not any(name.endswith("_noisy") for name in last)


@pytest.mark.parametrize("target", ["features", "layers"])
def test_an_intervention_scales_the_features_by_its_factor(target):
    network = models.build(RELU, 2, (1, 8, 8))
    network.reset([0, 1])
    x = torch.randn(2, 7, 1, 8, 8)
    before = network.activations(x, ["features"])["features"]
    network.scale_features(torch.tensor([0.5, 3.0]), target)
    after = network.activations(x, ["features"])["features"]
    assert torch.allclose(after, before * torch.tensor([0.5, 3.0])[:, None, None], rtol=1e-5, atol=1e-7)


def test_a_run_ends_where_its_stop_says_whoever_shares_its_stack():
    """The end is found again from the run's own record; the members end at different epochs."""
    members = [in_phases(RELU, dict(name="adam", lr=lr, weight_decay=1e-3), 60, stop=StopSpec(nc1=0.5, margin=7)) for lr in (1e-3, 3e-3)]
    together = trained(members).results()
    ends = []
    for single, result in zip(members, together):
        ratio, epochs = result["metrics"]["nc1_trace_ratio_clean"], result["epochs"]
        since = epochs[ratio < 0.5][0]
        ends.append(epochs[-1])
        assert epochs[-1] >= since + 7 > epochs[-2]
        assert tuple(epochs) == single.recorded_epochs[: len(epochs)]
        alone = trained([single]).results()[0]
        assert np.array_equal(alone["epochs"], epochs)
        assert np.allclose(alone["metrics"]["feature_norm"], result["metrics"]["feature_norm"], rtol=1e-3)
    assert ends[0] != ends[1]


def test_a_diverged_run_with_a_stop_ends_at_once():
    lost = in_phases(RELU, dict(name="sgd", lr=1e30), 60, stop=StopSpec(nc1=0.1))
    assert trained([lost]).results()[0]["epochs"].tolist() == [1]


def test_stopped_and_resumed_across_the_switch_equals_never_stopped():
    single = in_phases(
        RELU, epochs=8, switch=SwitchSpec(epoch=4, optimizer_state="reset"), intervention=InterventionSpec(epoch=6, factor=2)
    )
    whole = trained([single]).results()[0]
    for stop in (4, 5, 6):
        first, second = StackTrainer([single]), StackTrainer([single])
        for _ in range(stop):
            first.run_epoch()
        second.restore(first.checkpoint())
        while not second.done:
            second.run_epoch()
        for name, values in second.results()[0]["metrics"].items():
            assert np.array_equal(values, whole["metrics"][name]), name


def test_initial_weights_are_those_of_plain_modules():
    for shape in (ModelSpec(name="resnet1d", width=5, feature_dim=2), ModelSpec(name="cnn1d", width=3), TANH, RESNET20):
        point = (3, 8, 8) if shape.name in ("mlp", "resnet20") else (40,)
        stack = models.build(shape, 2, point)
        stack.reset([4, 9])
        for member, seed in enumerate((4, 9)):
            torch.manual_seed(seed)
            for name, value in plain.build(shape, point).state_dict().items():
                if "num_batches_tracked" not in name:
                    assert torch.equal(stack.state_dict()[name][member], value), name


@pytest.mark.parametrize("model", ["resnet1d", "cnn1d"])
def test_company_does_not_change_a_member(model):
    alone = trained([spec(model, seed=3)], dtype="float64").results()[0]
    among = trained([spec(model, seed=s) for s in (1, 3, 5)], dtype="float64").results()[1]
    for name, values in alone["metrics"].items():
        assert np.allclose(values, among["metrics"][name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=lambda o: o["name"])
def test_stopped_and_resumed_equals_never_stopped(optimizer):
    members = [spec(optimizer=optimizer, seed=s, epochs=5, snapshots=(1, 5)) for s in (0, 1)]
    whole = trained(members).results()
    first = StackTrainer(members)
    for _ in range(2):
        first.run_epoch()
    resumed = StackTrainer(members)
    resumed.restore(first.checkpoint())
    while not resumed.done:
        resumed.run_epoch()
    for one, other in zip(whole, resumed.results()):
        assert np.array_equal(one["epochs"], other["epochs"])
        for name, values in one["metrics"].items():
            assert np.array_equal(values, other["metrics"][name], equal_nan=True), name
        assert one["states"].keys() == other["states"].keys() == {1, 5}
        for epoch, state in one["states"].items():
            assert all(np.array_equal(value, other["states"][epoch][name]) for name, value in state.items())


def test_members_of_different_stacks_resume_together():
    members = [spec(seed=s, epochs=2) for s in (0, 1)]
    checkpoints = []
    for member in members:
        apart = StackTrainer([member], dtype="float64")
        apart.run_epoch()
        checkpoints += apart.checkpoint()
    together = StackTrainer(members, dtype="float64")
    together.restore(checkpoints)
    together.run_epoch()
    for one, other in zip(trained(members, dtype="float64").results(), together.results()):
        assert np.allclose(one["metrics"]["test_loss"], other["metrics"]["test_loss"], rtol=1e-9)


def test_a_diverged_member_shows_as_nan_and_leaves_the_others_alone():
    healthy = spec(epochs=2)
    wild = dataclasses.replace(healthy, optimizer=OptimizerSpec(**SGD | dict(lr=1e30)))
    result, lost = trained([healthy, wild]).results()
    assert np.isnan(lost["metrics"]["test_error"]).all() and np.isnan(lost["metrics"]["nc1_clean"]).all()
    assert np.isfinite(result["metrics"]["nc1_clean"]).all()
    assert result["metrics"]["test_error"][-1] < 0.9


@pytest.mark.parametrize("older", [False, True], ids=["checkpoint", "older checkpoint"])
def test_a_member_that_diverged_at_once_resumes_together_with_a_healthy_one(older):
    """Older checkpoints lack the geometry of a network that never had one."""
    healthy = spec("cnn1d", width=2, epochs=2)
    members = [dataclasses.replace(healthy, optimizer=OptimizerSpec(**SGD | dict(lr=1e30))), healthy]
    checkpoints = []
    for member in members:
        apart = StackTrainer([member])
        apart.run_epoch()
        checkpoints += apart.checkpoint()
    if older:
        checkpoints[0] = {n: v for n, v in checkpoints[0].items() if not n.startswith("metric.") or n.endswith(("_loss", "_error"))}
    for order in (0, 1), (1, 0):
        together = StackTrainer([members[i] for i in order])
        together.restore([checkpoints[i] for i in order])
        together.run_epoch()
        results = dict(zip(order, together.results()))
        assert results[0]["metrics"].keys() == results[1]["metrics"].keys()
        assert all(np.isnan(values).tolist() == [True, True] for values in results[0]["metrics"].values())
        assert all(np.isfinite(values).tolist() == [True, True] for values in results[1]["metrics"].values())


def test_bf16_trains_and_stays_close_to_float32():
    single = spec(width=8, optimizer=ADAM, epochs=3)
    full, half = (trained([single], dtype=dtype).results()[0]["metrics"] for dtype in ("float32", "bf16"))
    assert half["train_loss"][-1] == pytest.approx(full["train_loss"][-1], rel=0.1)
    assert not np.array_equal(half["train_loss"], full["train_loss"])


@pytest.mark.parametrize(
    "one, fixture",
    [
        (in_phases(RELU, ADAM, switch=SwitchSpec(epoch=2), intervention=InterventionSpec(epoch=3, factor=2)), None),
        (in_phases(RELU, SGD), None),
        (in_phases(RESNET20, SGD), "small_cifar"),
        (spec("cnn1d", width=3, optimizer=ADAM, epochs=3), None),
    ],
    ids=["MLP, Adam", "MLP, SGD", "ResNet-20", "1-D CNN"],
)
def test_weights_rounded_in_passing_are_those_that_autocast_rounds(one, fixture, request):
    if fixture:
        request.getfixturevalue(fixture)
    members = [dataclasses.replace(one, seed=seed) for seed in (0, 1)]
    ours, resumed, autocast = (StackTrainer(members, dtype="bf16") for _ in range(3))
    autocast._inputs, autocast._rounded, autocast._leaves = autocast._x, {}, autocast._parameters
    autocast._optimizer = Optimizer(autocast._flat, [p[0].numel() for p in autocast._parameters], [member.optimizer for member in members])
    ours.run_epoch()
    resumed.restore(ours.checkpoint())
    for trainer in (ours, resumed, autocast):
        while not trainer.done:
            trainer.run_epoch()
    assert torch.equal(ours._flat, autocast._flat)
    assert torch.equal(resumed._flat, autocast._flat)


@pytest.mark.parametrize("dtype", ["tf32", "float32"])
def test_tf32_is_for_training_steps_alone(dtype, monkeypatch):
    """By default PyTorch rounds the convolutions on a GPU to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = {}
    for name in ("_step", "_measure"):

        def spied(self, *batch, name=name, method=getattr(StackTrainer, name)):
            seen[name] = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
            return method(self, *batch)

        monkeypatch.setattr(StackTrainer, name, spied)
    trainer = StackTrainer([in_phases(RELU)])
    trainer.dtype = dtype  # which StackTrainer refuses on a CPU
    trainer.run_epoch()
    assert seen == {"_step": (dtype == "tf32",) * 2, "_measure": (False, False)}


def test_a_compiled_step_equals_the_one_in_torch_operations():
    """On other devices than the CPU a step is torch operations; they run on the CPU too."""
    specs = [OptimizerSpec(**optimizer) for optimizer in (SGD, ADAM, SGD | dict(momentum=0.0), ADAM | dict(lr=0.1))]
    generator, sizes = torch.Generator().manual_seed(0), (5, 1, 12)
    start = torch.randn(len(specs) * sum(sizes), generator=generator, dtype=torch.float64)
    ways = [Optimizer(start.clone(), sizes, specs, compiled=compiled) for compiled in (True, False)]
    for step in (1, 2, 3):
        gradient = torch.randn(len(start), generator=generator, dtype=torch.float64)
        for way in ways:
            way.prepare(step, [1.0, 0.5, 0.3, 1.0])
            way.step([block.view(len(specs), -1) for block in gradient.split([len(specs) * size for size in sizes])])
        assert torch.allclose(ways[0].parameters, ways[1].parameters, rtol=1e-12, atol=1e-14)
    assert (ways[0].parameters != start).all()


def test_a_step_rounds_the_blocks_whose_gradients_are_rounded():
    specs = [OptimizerSpec(**optimizer) for optimizer in (SGD, ADAM)]
    generator, sizes = torch.Generator().manual_seed(0), (5, 3000, 12)
    start = torch.randn(len(specs) * sum(sizes), generator=generator)
    gradients = [torch.randn(len(specs) * size, generator=generator) for size in sizes]
    gradients[1] = gradients[1].bfloat16()
    gradients[1][7] = torch.nan
    copy = torch.zeros(len(specs) * sizes[1], dtype=torch.bfloat16)
    ways = [Optimizer(start.clone(), sizes, specs, rounded={1: copy}), Optimizer(start.clone(), sizes, specs, compiled=False)]
    for step in (1, 2, 3):
        for way, given in zip(ways, (gradients, [gradient.float() for gradient in gradients])):
            way.prepare(step, [1.0, 0.5])
            way.step(given)
        assert torch.allclose(ways[0].parameters, ways[1].parameters, rtol=1e-6, atol=1e-6, equal_nan=True)
    with pytest.raises(ValueError, match="rounded: 1 blocks, but only compiled steps"):
        Optimizer(start, sizes, specs, rounded={1: copy}, compiled=False)
    changed = ways[0].parameters.split([len(specs) * size for size in sizes])[1]
    assert changed.isnan().sum() == 1
    assert torch.allclose(copy, changed.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "values, nearest",
    [([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], [1, 1 + 2**-6, -1]), ([3.4e38, -3.4e38, 0.0], [math.inf, -math.inf, 0.0])],
    ids=["halfway to the even one", "beyond the greatest"],
)
def test_parameters_are_rounded_as_the_processor_rounds_them(values, nearest):
    start, copy = torch.tensor(values), torch.zeros(len(values), dtype=torch.bfloat16)
    still = Optimizer(start.clone(), [len(values)], [OptimizerSpec(**SGD | dict(weight_decay=0.0))], rounded={0: copy})
    still.prepare(1, [1.0])
    still.step([torch.zeros_like(copy)])
    assert torch.equal(still.parameters, start) and copy.tolist() == nearest


def test_a_parameter_that_is_nan_in_all_its_bits_stays_nan_when_rounded():
    start, copy = torch.tensor([2**31 - 1, -1], dtype=torch.int32).view(torch.float32), torch.zeros(2, dtype=torch.bfloat16)
    lost = Optimizer(start, [2], [OptimizerSpec(**SGD)], rounded={0: copy})
    lost.prepare(1, [1.0])
    lost.step([torch.zeros_like(copy)])
    assert copy.isnan().all()


@pytest.mark.parametrize(
    "members",
    [
        [
            in_phases(RELU, made, switch=SwitchSpec(epoch=2, optimizer_state="reset"), intervention=InterventionSpec(epoch=3, factor=2))
            for made in (ADAM, SGD)
        ],
        [spec("cnn1d", width=2, seed=seed) for seed in (0, 1)],
    ],
    ids=["phases", "batch norm"],
)
def test_a_captured_step_equals_a_plain_one(members, monkeypatch):
    """Stand-ins for CUDA's streams and graphs; a replay computes the step as it was when it was captured."""

    class Graph(contextlib.nullcontext):
        def __init__(self):
            super().__init__()
            self.squared = captured._squared

        def replay(self):
            now, captured._squared = captured._squared, self.squared
            step(next(static for graph, static in captured._graphs.values() if graph is self))
            captured._squared = now

    class Stream(contextlib.nullcontext):
        def wait_stream(self, other):
            pass

    stand_ins = {"CUDAGraph": Graph, "graph": lambda graph: graph}
    stand_ins |= {"Stream": Stream, "current_stream": Stream, "stream": lambda stream: stream}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    captured = StackTrainer(members, dtype="float64")
    step, capture = captured._step, captured._captured_step

    def captured_step(batch):
        """What takes the place of `_step` on a GPU, where `_step` stays what it is."""
        captured._step = step
        capture(batch)
        captured._step = captured_step

    captured._step = captured_step
    while not captured.done:
        captured.run_epoch()
    for one, other in zip(captured.results(), trained(members, dtype="float64").results()):
        for name, values in one["metrics"].items():
            assert np.array_equal(values, other["metrics"][name]), name
    assert len(captured._graphs) == 2


@pytest.mark.parametrize(
    "one, dtype", [(spec("cnn1d", width=2), "float64"), (in_phases(WIDE), "float32")], ids=["float64 kernels", "float32 products"]
)
def test_a_training_repeats_to_the_last_digit_wherever_its_arrays_lie(one, dtype):
    """With one thread, as a sweep's processes have it; what is kept between the trainings moves the later ones in memory."""
    members = [dataclasses.replace(one, seed=seed) for seed in (0, 1)]
    kept = [(torch.empty(1000 + 37 * i), trained(members, dtype=dtype)) for i in range(6)]
    first, *others = (checkpoint for _, trainer in kept for checkpoint in trainer.checkpoint()[:1])
    assert all(np.array_equal(first["flat.0"], other["flat.0"]) for other in others)


def test_every_layer_can_be_asked_for_by_name():
    x = torch.randn(2, 5, 40)
    resnet = models.ResNet1D(4, members=2)
    resnet.reset([0, 1])
    assert resnet.activations(x, ["stem", "block2"])["block2"].shape == (2, 40, 5, 4)
    assert [name for name, _ in resnet.layers(x)] == ["stem", "block1", "block2", "features", "logits"]
    with pytest.raises(KeyError, match="ResNet1D has no layer conv9: it has stem, block1"):
        resnet.activations(x, ["conv9"])


def test_refusals():
    with pytest.raises(ValueError, match="do not fit one stack"):
        StackTrainer([spec(width=2), spec(width=4)])
    with pytest.raises(ValueError, match="tf32.*CUDA devices only"):
        StackTrainer([spec()], dtype="tf32")
    with pytest.raises(ValueError, match="dtype='half' is unknown: choose one of float32"):
        StackTrainer([spec()], dtype="half")
    one = StackTrainer([spec(epochs=3)])
    early = one.checkpoint()
    one.run_epoch()
    with pytest.raises(ValueError, match="all at the same epoch"):
        StackTrainer([spec(epochs=3), spec(epochs=3, seed=1)]).restore(early + one.checkpoint())


def test_stack_key_separates_what_cannot_share_a_program():
    base = spec()
    assert stack_key(base) == stack_key(spec(optimizer=ADAM, seed=9, data=DataSpec(noise_seed=3)))
    assert stack_key(base) != stack_key(dataclasses.replace(base, batch_size=64))
    assert stack_key(base) != stack_key(spec(width=5))
