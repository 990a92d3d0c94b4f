"""Specs: what is refused and in which words, and that a key is a name for good."""

import dataclasses
import json

import pytest

from ncbook.spec import DataSpec, InterventionSpec, ModelSpec, OptimizerSpec, RunSpec, SpecError, StopSpec, SwitchSpec

MODEL = ModelSpec(name="resnet1d", width=12)
SGD = OptimizerSpec(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine")
RUN = RunSpec(model=MODEL, optimizer=SGD, epochs=400, seed=3)
FULL = RunSpec(
    model=ModelSpec(name="resnet1d", width=12, feature_dim=7),
    optimizer=OptimizerSpec(name="adam", lr=1e-3, weight_decay=1e-4),
    epochs=2000,
    seed=1,
    data=DataSpec(label_noise=0.1, noise_seed=2),
    batch_size=64,
    record="dense",
    snapshots=(2000, 0, 100, 100),
)
PHASES = RunSpec(
    model=ModelSpec(name="mlp", width=512, depth=5),
    optimizer=OptimizerSpec(name="adam", lr=1e-3),
    epochs=500,
    seed=0,
    data=DataSpec(name="mnist", label_noise=0, subset=12_000),
    record="phases",
    switch=SwitchSpec(epoch=200, reduction="sum"),
    intervention=InterventionSpec(epoch=250, factor=2),
    stop=StopSpec(nc1=0.01, margin=30),
)


def MLP(**changes):
    return ModelSpec(**{"name": "mlp", "width": 8, "depth": 2} | changes)


def run(**changes):
    return dataclasses.replace(RUN, **changes)


REFUSED = {
    "unknown data set": (
        lambda: DataSpec(name="cifar"),
        "data.name='cifar' is unknown: choose one of mnist1d, mnist, fashion_mnist, cifar10, digits.",
    ),
    "noise of 1": (lambda: DataSpec(label_noise=1.0), "data.label_noise=1.0 is outside [0, 1)."),
    "negative noise": (lambda: DataSpec(label_noise=-0.1), "data.label_noise=-0.1 is outside [0, 1)."),
    "noise that is no number": (lambda: DataSpec(label_noise="much"), "data.label_noise='much' is not a number."),
    "noise that is NaN": (lambda: DataSpec(label_noise=float("nan")), "data.label_noise=nan is outside [0, 1)."),
    "noise seed": (lambda: DataSpec(noise_seed=-1), "data.noise_seed=-1 is too small: it must be at least 0."),
    "unknown model": (lambda: ModelSpec(name="vgg", width=4), "model.name='vgg' is unknown: choose one of resnet1d, cnn1d, mlp, resnet20."),
    "width of 0": (lambda: ModelSpec(name="cnn1d", width=0), "model.width=0 is too small: it must be at least 1."),
    "negative width": (lambda: ModelSpec(name="cnn1d", width=-4), "model.width=-4 is too small: it must be at least 1."),
    "fractional width": (lambda: ModelSpec(name="cnn1d", width=4.0), "model.width=4.0 is not a whole number."),
    "width that is a truth value": (lambda: ModelSpec(name="cnn1d", width=True), "model.width=True is not a whole number."),
    "feature_dim of 0": (
        lambda: ModelSpec(name="resnet1d", width=4, feature_dim=0),
        "model.feature_dim=0 is too small: it must be at least 1.",
    ),
    "feature_dim of a model without projector": (
        lambda: ModelSpec(name="cnn1d", width=4, feature_dim=2),
        "model.feature_dim=2: cnn1d has no projector; use resnet1d or leave it out.",
    ),
    "feature_dim above what exists": (
        lambda: ModelSpec(name="resnet1d", width=4, feature_dim=5),
        "model.feature_dim=5 exceeds model.width=4: a linear projector adds no dimensions to those that exist; "
        "lower feature_dim or raise width.",
    ),
    "unknown optimiser": (lambda: OptimizerSpec(name="lion", lr=1), "optimizer.name='lion' is unknown: choose one of sgd, adam."),
    "learning rate of 0": (lambda: OptimizerSpec(name="sgd", lr=0), "optimizer.lr=0 is outside (0, ∞)."),
    "infinite learning rate": (lambda: OptimizerSpec(name="sgd", lr=float("inf")), "optimizer.lr=inf is outside (0, ∞)."),
    "momentum of 1": (lambda: OptimizerSpec(name="sgd", lr=1, momentum=1), "optimizer.momentum=1 is outside [0, 1)."),
    "momentum of Adam": (
        lambda: OptimizerSpec(name="adam", lr=1, momentum=0.9),
        "optimizer.momentum=0.9: adam takes no momentum; leave it out.",
    ),
    "negative weight decay": (
        lambda: OptimizerSpec(name="sgd", lr=1, weight_decay=-1),
        "optimizer.weight_decay=-1 is outside [0, ∞).",
    ),
    "unknown schedule": (
        lambda: OptimizerSpec(name="sgd", lr=1, schedule="step"),
        "optimizer.schedule='step' is unknown: choose one of constant, cosine.",
    ),
    "seed beyond a library's integers": (lambda: run(seed=2**31), "seed=2147483648 is too large: it must be at most 2,147,483,647."),
    "width of 400 digits": (
        lambda: ModelSpec(name="cnn1d", width=10**399),
        f"model.width={10**399} is too large: it must be at most 2,147,483,647.",
    ),
    "rate beyond floats": (
        lambda: OptimizerSpec(name="adam", lr=10**400),
        f"optimizer.lr={10**400} is too large: give a number that a float can hold.",
    ),
    "epochs of 0": (lambda: run(epochs=0), "epochs=0 is too small: it must be at least 1."),
    "negative seed": (lambda: run(seed=-1), "seed=-1 is too small: it must be at least 0."),
    "batch of 1": (lambda: run(batch_size=1), "batch_size=1 is too small: it must be at least 2."),
    "unknown record": (lambda: run(record="all"), "record='all' is unknown: choose one of log, dense, phases."),
    "snapshot after the end": (lambda: run(snapshots=(401,)), "snapshots=401 lies after the last epoch, 400."),
    "negative snapshot": (lambda: run(snapshots=(-1,)), "snapshots=-1 is too small: it must be at least 0."),
    "model that is no spec": (lambda: run(model="resnet1d"), "model='resnet1d' is not a ModelSpec."),
    "unknown field": (
        lambda: RunSpec.from_dict(RUN.to_dict() | {"epoch": 3}),
        "RunSpec has no field epoch: its fields are model, optimizer, epochs, seed, data, batch_size, record, snapshots, "
        "switch, intervention, stop.",
    ),
    "unknown nested field": (
        lambda: RunSpec.from_dict(RUN.to_dict() | {"data": {"noise": 0.1}}),
        "DataSpec has no field noise: its fields are name, label_noise, noise_seed, subset.",
    ),
    "subset larger than the set": (
        lambda: DataSpec(name="mnist", label_noise=0, subset=70_000),
        "data.subset=70000: mnist has 60,000 training images; choose a number up to that, or all.",
    ),
    "subset of signals": (
        lambda: DataSpec(subset=100),
        "data.subset=100: mnist1d is used whole; leave it out or choose one of mnist, fashion_mnist, cifar10, digits.",
    ),
    "mlp without depth": (
        lambda: ModelSpec(name="mlp", width=9),
        "model.depth is missing: an mlp needs its number of hidden layers, 1 to 10.",
    ),
    "mlp too deep": (lambda: MLP(depth=11), "model.depth=11 is too large: an mlp here has 1 to 10 hidden layers."),
    "depth of a resnet": (
        lambda: ModelSpec(name="resnet20", width=16, depth=5),
        "model.depth=5: the depth of resnet20 is fixed; leave it out.",
    ),
    "activation of a resnet": (
        lambda: ModelSpec(name="resnet20", width=16, activation="tanh"),
        "model.activation='tanh': resnet20 has ReLU only; use mlp or leave it out.",
    ),
    "signals for an mlp": (lambda: run(model=MLP()), "model.name='mlp' does not take mnist1d: choose one of resnet1d, cnn1d."),
    "images for a 1-D network": (
        lambda: run(data=DataSpec(name="mnist")),
        "model.name='resnet1d' does not take mnist: choose one of mlp, resnet20.",
    ),
    "switch at the end": (
        lambda: run(switch=SwitchSpec(epoch=400)),
        "switch.epoch=400 leaves nothing after it: it must be less than epochs=400.",
    ),
    "unknown reduction": (
        lambda: SwitchSpec(epoch=1, reduction="max"),
        "switch.reduction='max' is unknown: choose one of mean, sum.",
    ),
    "intervention on other networks": (
        lambda: run(intervention=InterventionSpec(epoch=5, factor=2)),
        "intervention: only a ReLU mlp's features scale exactly with its weights; choose model mlp with activation relu.",
    ),
    "factor of 0": (lambda: InterventionSpec(epoch=5, factor=0), "intervention.factor=0 is outside (0, ∞)."),
    "stop with snapshots": (
        lambda: run(stop=StopSpec(nc1=0.01), snapshots=(1,)),
        "snapshots=[1]: a run with stop may end before them; leave one of the two out.",
    ),
    "missing fields": (lambda: RunSpec.from_dict({"model": MODEL.to_dict()}), "RunSpec needs epochs, optimizer, seed."),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_one_sentence(make, message):
    with pytest.raises(SpecError) as error:
        make()
    assert str(error.value) == message


def test_key_of_a_run_in_phases_is_a_name_for_good():
    assert PHASES.canonical == (
        '{"data":{"label_noise":0.0,"name":"mnist","subset":12000},"epochs":500,"intervention":{"epoch":250,"factor":2.0},'
        '"model":{"depth":5,"name":"mlp","width":512},"optimizer":{"lr":0.001,"name":"adam"},"record":"phases","seed":0,'
        '"stop":{"margin":30,"nc1":0.01},"switch":{"epoch":200,"reduction":"sum"}}'
    )


def test_key_is_a_name_for_good():
    assert FULL.canonical == (
        '{"batch_size":64,"data":{"label_noise":0.1,"noise_seed":2},"epochs":2000,'
        '"model":{"feature_dim":7,"name":"resnet1d","width":12},"optimizer":{"lr":0.001,"name":"adam","weight_decay":0.0001},'
        '"record":"dense","seed":1,"snapshots":[0,100,2000]}'
    )
    assert FULL.key == "aee7132239a131d6ed12"
    assert RUN.key == "fc633acc1e68ddaa4a52"


def test_defaults_are_left_out_of_the_name():
    explicit = run(data=DataSpec(name="mnist1d", label_noise=0.2, noise_seed=0), batch_size=128, record="log", snapshots=())
    assert explicit.key == RUN.key
    assert RUN.canonical == (
        '{"epochs":400,"model":{"name":"resnet1d","width":12},'
        '"optimizer":{"lr":0.01,"momentum":0.9,"name":"sgd","schedule":"cosine","weight_decay":0.0005},"seed":3}'
    )


def test_equal_specs_have_equal_keys_however_they_were_written():
    whole = OptimizerSpec(name="sgd", lr=1, momentum=0, weight_decay=0)
    fractional = OptimizerSpec(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    assert run(optimizer=whole).key == run(optimizer=fractional).key
    assert run(snapshots=(400, 1)).key == run(snapshots=[1, 400, 1]).key
    assert run(data=DataSpec(label_noise=-0.0)).key == run(data=DataSpec(label_noise=0.0)).key


OTHERS = [
    run(seed=4),
    run(epochs=401),
    run(batch_size=127),
    run(record="dense"),
    run(snapshots=(400,)),
    run(data=DataSpec(label_noise=0.0)),
    run(data=DataSpec(noise_seed=1)),
    run(model=ModelSpec(name="cnn1d", width=12)),
    run(model=ModelSpec(name="resnet1d", width=12, feature_dim=12)),
    run(optimizer=dataclasses.replace(SGD, lr=0.010000000000000002)),
    run(optimizer=dataclasses.replace(SGD, schedule="constant")),
    run(switch=SwitchSpec(epoch=200)),
    run(stop=StopSpec(nc1=0.01)),
    PHASES,
    dataclasses.replace(PHASES, intervention=None),
    dataclasses.replace(PHASES, intervention=None, model=MLP(activation="gelu")),
    dataclasses.replace(PHASES, switch=SwitchSpec(epoch=200, reduction="sum", optimizer_state="reset")),
]


def test_whatever_decides_the_numbers_changes_the_key():
    keys = [spec.key for spec in [RUN, *OTHERS]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("spec", [RUN, FULL, *OTHERS], ids=lambda spec: spec.key)
def test_survives_json(spec):
    again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.key == spec.key


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.epochs = 5


@pytest.mark.parametrize(
    ("epochs", "record", "expected"),
    [
        (1, "log", (1,)),
        (2, "log", (1, 2)),
        (10, "log", (1, 2, 3, 4, 5, 6, 8, 10)),
        (11, "log", (1, 2, 3, 4, 5, 6, 8, 10, 11)),
        (3, "dense", (1, 2, 3)),
        (22, "phases", (*range(1, 11), 15, 20, 22)),
        (450, "dense", (*range(1, 101), 200, 400, 450)),
    ],
)
def test_recorded_epochs(epochs, record, expected):
    assert run(epochs=epochs, record=record).recorded_epochs == expected


def test_phases_are_recorded_closely_where_they_begin():
    assert PHASES.recorded_epochs == (
        *range(1, 11),
        *range(15, 201, 5),
        *range(201, 211),
        *range(215, 251, 5),
        *range(251, 261),
        *range(265, 501, 5),
    )


@pytest.mark.parametrize("epochs", [7, 100, 1000, 3000, 15000])
def test_log_records_about_ten_epochs_a_decade_and_both_ends(epochs):
    recorded = run(epochs=epochs).recorded_epochs
    assert recorded[0] == 1
    assert recorded[-1] == epochs
    assert list(recorded) == sorted(set(recorded))
    late = [b / a for a, b in zip(recorded, recorded[1:-1], strict=False) if a >= 10]
    assert all(1.1 < ratio < 1.4 for ratio in late)
