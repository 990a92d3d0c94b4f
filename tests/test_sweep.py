"""Sweeps, with real networks of width 2: what is there is not trained, what is stopped goes on, and no work is lost."""

import dataclasses
import json
import math
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ncbook import executor, train
from ncbook.executor import Setting, Stack, plan
from ncbook.spec import DataSpec, InterventionSpec, ModelSpec, OptimizerSpec, RunSpec, StopSpec, SwitchSpec
from ncbook.store import Store, StoreError
from ncbook.sweep import DTYPES, LABELS, SweepArgumentError, SweepError, SweepStopped, load_runs, sweep, train_missing
from ncbook.train import estimate_seconds, stack_size

COLUMNS = [*LABELS, "epoch"]
FLOAT32 = Setting("cpu", "float32")


def spec(seed=0, lr=1e-3, epochs=3, width=2, **changes):
    model, optimizer = ModelSpec(name="cnn1d", width=width), OptimizerSpec(name="adam", lr=lr, weight_decay=1e-4)
    return RunSpec(**{"model": model, "optimizer": optimizer, "epochs": epochs, "seed": seed} | changes)


PLAIN = spec()
SEEDED = spec(1, snapshots=(3,), data=DataSpec(label_noise=0.1, noise_seed=5))
DIVERGED = spec(optimizer=OptimizerSpec(name="sgd", lr=1e20))
PROJECTED = spec(model=ModelSpec(name="resnet1d", width=2, feature_dim=1))
TRAINED = [PLAIN, SEEDED, DIVERGED, PROJECTED]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with the runs of `TRAINED`, trained once, the first asked for twice."""
    folder = tmp_path_factory.mktemp("runs")
    store = Store(folder / "own", folder / "published")
    train_missing([*TRAINED, PLAIN], jobs=2, device="cpu", store=store)
    return store


@pytest.fixture
def empty(tmp_path):
    return Store(tmp_path / "own", tmp_path / "published")


@pytest.fixture
def no_training(monkeypatch):
    def train(*arguments):
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(executor, "_train_stacks", train)


class StopAfter:
    """A stop signal that comes after so many epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def is_set(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def in_threads(monkeypatch):
    """Workers that are threads of this process: they need not load PyTorch and the data again. `trained` has real ones."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(executor, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(executor, "_end_with_checkpoints", lambda: None)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work_here(monkeypatch):
    """Makes this thread a worker that is told to stop after so many epochs."""
    threads = torch.get_num_threads()

    def work(stack, store, stop_after, setting=FLOAT32):
        monkeypatch.setattr(executor, "_progress", queue.SimpleQueue(), raising=False)
        monkeypatch.setattr(executor, "_stop", StopAfter(stop_after), raising=False)
        torch.set_num_threads(1)
        return executor._train_stack(stack, setting, store, math.inf)

    yield work
    torch.set_num_threads(threads)


def checkpoints(store):
    """The names of those that there are."""
    return [path.stem for path in (store.own / "checkpoints").glob("*")]


def assert_equal_numbers(one, other):
    assert one.metrics.keys() == other.metrics.keys()
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], other.metrics[name], err_msg=name)
    for epoch, state in one.states.items():
        for name, values in state.items():
            np.testing.assert_array_equal(values, other.states[epoch][name], err_msg=name)


def test_what_is_there_is_not_trained_again(trained, no_training, capfd):
    table = sweep([*TRAINED, PLAIN], store=trained)
    output = capfd.readouterr()
    assert output.out == "4 runs: all found.\n"
    assert output.err == ""
    assert list(table["key"].unique()) == [run.key for run in TRAINED]


def test_a_worker_has_nothing_to_warn_of(empty, capfd):
    train_missing([PLAIN], jobs=1, device="cpu", store=empty)
    assert "Warning" not in capfd.readouterr().err


def test_table_is_tidy(trained, no_training):
    table = sweep(TRAINED, train=False, store=trained)
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert {"train_loss", "test_error", "nc1_noisy", "nc2_gram_clean", "feature_norm"} <= set(table.columns[len(COLUMNS) :])
    assert not table.duplicated(["key", "epoch"]).any()
    assert list(table["epoch"]) == [1, 2, 3] * 4
    row = table[table["key"] == SEEDED.key].iloc[-1]
    labels = row[COLUMNS].dropna().to_dict()
    assert labels.pop("parameters") > 100
    assert labels == {
        "key": SEEDED.key,
        "data": "mnist1d",
        "model": "cnn1d",
        "width": 2,
        "activation": "relu",
        "optimizer": "adam",
        "lr": 1e-3,
        "momentum": 0.0,
        "weight_decay": 1e-4,
        "batch_size": 128,
        "seed": 1,
        "label_noise": 0.1,
        "noise_seed": 5,
        "epochs": 3,
        "epoch": 3,
    }
    assert row["test_error"] == trained.load(SEEDED.key).metrics["test_error"][-1]
    assert 0 < row["test_error"] < 1
    projected = table[table["key"] == PROJECTED.key]
    assert list(projected["feature_dim"]) == [1, 1, 1]
    assert table["feature_dim"].isna().sum() == 9


def test_runs_that_stop_early_leave_their_stack_and_are_stored(tmp_path):
    """Two of three end early, at epochs of their own; all labels of a run in phases are in its rows."""
    store = Store(tmp_path / "own", tmp_path / "published")
    model, data = ModelSpec(name="mlp", width=12, depth=2), DataSpec(name="digits", label_noise=0, subset=120)
    specs = [
        RunSpec(
            model=model,
            optimizer=OptimizerSpec(name="adam", lr=lr),
            epochs=40,
            seed=0,
            data=data,
            batch_size=8,
            record="phases",
            switch=SwitchSpec(epoch=2, reduction="sum"),
            intervention=InterventionSpec(epoch=3, factor=2),
            stop=StopSpec(nc1=0.7, margin=2),
        )
        for lr in (1e-9, 2e-3, 1e-2)
    ]
    table = sweep(specs, store=store, jobs=1, device="cpu")
    last = table.groupby("key", sort=False)["epoch"].max().tolist()
    assert last[0] == 40 > max(last[1:]) and last[1] != last[2]
    assert checkpoints(store) == []
    row = table.iloc[0]
    expected = {
        "data": "digits",
        "subset": 120,
        "depth": 2,
        "activation": "relu",
        "switch": 2,
        "reduction": "sum",
        "optimizer_state": "kept",
    }
    expected |= {"factor": 2.0, "factor_epoch": 3, "target": "features", "epochs": 40}
    assert {name: row[name] for name in expected} == expected
    run = store.load(specs[2].key)
    assert run.provenance["scale"] == f"{last[2]} epochs, 120 training points" and run.provenance["stack_members"] == 3
    with pytest.raises(StoreError, match="its epochs are not those that its spec records"):
        store.save(dataclasses.replace(run, epochs=run.epochs + 1))


def test_table_of_nothing_has_the_columns(empty):
    table = sweep(TRAINED, train=False, store=empty)
    assert list(table.columns) == COLUMNS
    assert len(table) == 0


def test_diverged_run_is_stored_as_nan(trained):
    run = trained.load(DIVERGED.key)
    assert np.isnan(run.metrics["train_loss"]).all()
    assert np.isnan(run.metrics["test_error"]).all()
    assert np.isfinite(trained.load(PLAIN.key).metrics["train_loss"]).all()


def test_provenance_tells_how_a_run_was_made(trained):
    plain, seeded = load_runs([PLAIN, SEEDED, PLAIN], trained)
    assert set(seeded.states) == {3}
    made = plain.provenance
    assert (made["device"], made["dtype"], made["threads"], made["stack_members"]) == ("cpu", "float32", 1, 2)  # with DIVERGED
    assert made["versions"]["torch"] == torch.__version__
    assert made["scale"] == "3 epochs, 4,000 training points"
    assert made["hardware"]
    assert made["seconds"] > 0
    assert made["started"].endswith("+00:00")
    with pytest.raises(StoreError, match="There is no run"):
        load_runs([spec(9)], trained)


@pytest.mark.parametrize(
    "cpuinfo, said",
    [
        ("processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: Some EPYC\nflags\t\t: sse\n", "Some EPYC (family 26, model 2)"),
        ("processor\t: 0\nmodel name\t: Some Cortex\n", "Some Cortex"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.processor() or platform.machine()),
    ],
)
def test_processors_of_one_name_are_told_apart(cpuinfo, said, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(executor, "Path", lambda path: tmp_path / Path(path).name)
    assert executor.hardware("cpu") == said


def test_overlapping_sweeps_train_only_the_difference(trained, tmp_path, capsys, in_threads):
    store = Store(tmp_path / "own", trained.own)
    new = spec(2)
    before = {path: path.stat().st_mtime_ns for path in trained.own.glob("*.npz")}
    table = sweep([PLAIN, new], store=store, jobs=1, device="cpu")
    assert capsys.readouterr().out == "2 runs: 1 found, 1 to train, less than a minute (cpu, float32, 1 process).\n"
    assert list(table["key"].unique()) == [PLAIN.key, new.key]
    assert [path.stem for path in store.own.glob("*.npz")] == [new.key]
    assert {path: path.stat().st_mtime_ns for path in trained.own.glob("*.npz")} == before


def test_stopped_stack_goes_on_to_the_same_numbers(empty, tmp_path, work_here, capsys, in_threads):
    specs = [spec(seed, epochs=5, snapshots=(1, 5)) for seed in range(2)]
    never_stopped = Store(tmp_path / "reference", tmp_path / "none")
    assert work_here(Stack(tuple(specs), 0), never_stopped, math.inf) == 2

    assert work_here(Stack(tuple(specs), 0), empty, 2) == 0
    todo = plan(specs, empty, device="cpu", jobs=1)
    assert todo.checkpointed == {one.key: 2 for one in specs}
    assert todo.stacks() == [Stack(tuple(specs), 2)]
    assert not any(one.key in empty for one in specs)
    first = json.loads(empty.load_checkpoint(FLOAT32.checkpoint(specs[0]))["making"].item())

    train_missing(specs, store=empty, device="cpu", jobs=1)
    assert "2 to train (2 from a checkpoint)" in capsys.readouterr().out
    for one in specs:
        assert_equal_numbers(never_stopped.load(one.key), empty.load(one.key))
        made = empty.load(one.key).provenance
        assert made["started"] == first["started"]
        assert made["seconds"] > first["seconds"] > 0
    assert checkpoints(empty) == []


def test_checkpoint_made_in_another_way_is_neither_continued_nor_lost(empty, work_here):
    one, ways = spec(epochs=5), [FLOAT32, Setting("cpu", "bf16"), Setting("cpu", "float32", "0.0")]
    for epochs, way in enumerate(ways, start=1):
        work_here(Stack((one,), 0), empty, epochs, way)
    assert [empty.load_checkpoint(way.checkpoint(one))["epoch"] for way in ways] == [1, 2, 3]
    assert plan([one], empty, device="cpu").checkpointed == {one.key: 1}
    assert work_here(Stack((one,), 1), empty, 9) == 1
    assert checkpoints(empty) == []


def test_checkpoint_named_as_before_is_continued_in_its_own_way_alone(empty, work_here):
    work_here(Stack((PLAIN,), 0), empty, 1)
    folder = empty.own / "checkpoints"
    (folder / f"{FLOAT32.checkpoint(PLAIN)}.npz").rename(folder / f"{PLAIN.key}.npz")
    assert plan([PLAIN], empty, device="cpu").checkpointed == {PLAIN.key: 1}
    assert plan([PLAIN], empty, device="cpu", dtype="bf16").checkpointed == {}
    assert work_here(Stack((PLAIN,), 1), empty, 5) == 1
    assert checkpoints(empty) == []


def test_of_two_sweeps_of_one_run_the_further_checkpoint_and_the_first_run_stay(empty, work_here, trained):
    name, other = FLOAT32.checkpoint(PLAIN), spec(7)
    first = Stack((other,), 0)
    work_here(first, empty, stop_after=2)
    further = empty.load_checkpoint(FLOAT32.checkpoint(other))
    making = json.loads(further["making"].item())
    executor._keep(other, {**further, "making": np.array(json.dumps(making | {"epoch": 1}))}, 1, FLOAT32, empty)
    kept = json.loads(empty.load_checkpoint(FLOAT32.checkpoint(other))["making"].item())
    assert kept["epoch"] == making["epoch"] > 1
    run = trained.load(PLAIN.key)
    empty.save(run)
    executor._keep(PLAIN, further, 2, FLOAT32, empty)
    assert empty.load_checkpoint(name) is None
    members, trainer = [executor._Member(PLAIN, making)], executor.StackTrainer([PLAIN])
    for _ in range(PLAIN.epochs):
        trainer.run_epoch()
    executor._store_ended(members, trainer, FLOAT32, empty)
    assert empty.load(PLAIN.key).provenance == run.provenance


def test_stack_trains_its_runs_from_where_another_sweep_has_brought_them(empty, tmp_path, work_here):
    specs = [spec(seed, epochs=4) for seed in range(5)]
    never_stopped = Store(tmp_path / "reference", tmp_path / "none")
    work_here(Stack(tuple(specs), 0), never_stopped, math.inf)

    work_here(Stack(tuple(specs), 0), empty, 1)
    (planned,) = plan(specs, empty, device="cpu", jobs=1).stacks()
    work_here(Stack((specs[1],), 1), empty, 1)
    work_here(Stack((specs[2],), 1), empty, 9)
    empty.drop_checkpoints(specs[3].key)
    assert work_here(planned, empty, 99) == 4
    assert executor._drain(executor._progress) == pytest.approx(planned.cost)
    for one in specs:
        losses = [store.load(one.key).metrics["train_loss"] for store in (never_stopped, empty)]
        np.testing.assert_allclose(*losses, rtol=1e-3)
    assert checkpoints(empty) == []


def test_ctrl_c_keeps_the_work(empty, monkeypatch, capfd, in_threads):
    specs = [spec(seed, epochs=5000) for seed in range(2)]
    drain = executor._drain

    def interrupted_when_under_way(progress):
        if drain(progress) > 0:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(executor, "_drain", interrupted_when_under_way)
    with pytest.raises(SweepStopped) as stop:
        sweep(specs, store=empty, device="cpu", jobs=1)
    assert str(stop.value) == (
        "Stopped by Ctrl-C: 0 of 2 runs are done, 2 are checkpointed, 0 not begun; the same command goes on from there."
    )
    reached = plan(specs, empty, device="cpu").checkpointed
    assert reached.keys() == {one.key for one in specs}
    assert len(set(reached.values())) == 1
    assert 0 < reached[specs[0].key] < 5000
    output = capfd.readouterr()
    assert "Stopping at the end of the epoch" in output.err
    assert "Traceback" not in output.err


def test_sweep_out_of_time_says_how_far_it_came(trained, tmp_path, in_threads):
    store = Store(tmp_path / "own", trained.own)
    with pytest.raises(SweepStopped) as stop:
        sweep([PLAIN, spec(epochs=20000), spec(epochs=20000, width=4)], store=store, device="cpu", jobs=1, max_minutes=1e-9)
    assert str(stop.value) == (
        "Stopped when its time was over: 1 of 3 runs are done, 0 are checkpointed, 2 not begun; the same command goes on from there."
    )


def test_worker_out_of_time_keeps_a_checkpoint(empty, work_here, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(
        executor, "time", SimpleNamespace(time=lambda: next(clock), monotonic=time.monotonic)
    )  # others may ask the time too
    monkeypatch.setattr(executor.math, "inf", 1.5)
    assert work_here(Stack((PLAIN,), 0), empty, 1000) == 0
    monkeypatch.undo()
    assert plan([PLAIN], empty, device="cpu").checkpointed == {PLAIN.key: 2}


def test_failing_stack_is_named_and_the_others_finish(empty, in_threads):
    making = {"setting": vars(FLOAT32), "epoch": 1, "started": "", "seconds": 0.0}
    empty.save_checkpoint(FLOAT32.checkpoint(PLAIN), {"making": np.array(json.dumps(making))})
    with pytest.raises(SweepError) as error:
        sweep([PLAIN, spec(2)], store=empty, device="cpu", jobs=1)
    assert str(error.value) == (f"Training cnn1d of width 2 ({PLAIN.key}) failed with KeyError: 'epoch'. 1 of 2 runs to train were stored.")
    assert spec(2).key in empty


ENDLESS = """
import sys
from ncbook.spec import ModelSpec, OptimizerSpec, RunSpec
from ncbook.sweep import train_missing
if __name__ == "__main__":
    model, optimizer = ModelSpec(name="cnn1d", width=2), OptimizerSpec(name="adam", lr=1e-3)
    endless = [RunSpec(model=model, optimizer=optimizer, epochs=5000, seed=seed) for seed in range(int(sys.argv[1]))]
    train_missing(endless, device="cpu", jobs=len(endless))
"""


@pytest.fixture
def endless(tmp_path):
    """Starts so many networks that train for long, each in a process of its own; returns the parent and the workers once they train."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    environment = os.environ | {"NCBOOK_RUNS": str(tmp_path / "own")}

    def start(networks):
        command = [sys.executable, "endless.py", str(networks)]
        parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        seen = ""
        while not re.search(r"[1-9]%", seen):
            assert (letter := parent.stderr.read(1)), seen
            seen += letter
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        workers = [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
        assert len(workers) == networks
        return parent, workers

    return start


def assert_ends_with_one_checkpoint(workers, folder):
    waiting = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < waiting:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    (checkpoint,) = (folder / "own" / "checkpoints").glob("*.npz")
    with np.load(checkpoint) as arrays:
        assert json.loads(arrays["making"].item())["epoch"] > 1


@pytest.mark.parametrize("end", ["the process is killed", "its group is told to end"])
def test_workers_keep_a_checkpoint_and_end(end, endless, tmp_path):
    parent, workers = endless(1)
    if end == "the process is killed":
        parent.kill()
    else:
        os.killpg(parent.pid, signal.SIGTERM)
    parent.wait()
    assert_ends_with_one_checkpoint(workers, tmp_path)


def test_where_one_worker_dies_the_other_keeps_a_checkpoint_and_it_is_said_once(endless, tmp_path):
    parent, workers = endless(2)
    os.kill(workers[0], signal.SIGKILL)
    said = parent.communicate(timeout=60)[1]
    assert parent.returncode == 1 and said.count("A process died") == 1 and "0 of 2 runs to train were stored." in said
    assert_ends_with_one_checkpoint(workers, tmp_path)


def test_what_can_be_asked_for_is_what_training_knows():
    assert set(DTYPES) == set(train.DTYPES)


REFUSED = {
    "no spec": (["exp1"], {}, "'exp1' is not a RunSpec: a sweep takes a list of RunSpec."),
    "device": ([PLAIN], {"device": "tpu"}, "device='tpu' is unknown: choose one of auto, cpu, cuda."),
    "no GPU": ([PLAIN], {"device": "cuda"}, "device='cuda': PyTorch sees no GPU here; use device='cpu' or 'auto'."),
    "dtype": ([PLAIN], {"dtype": "fp8"}, "dtype='fp8' is unknown: choose one of float32, bf16, tf32, float64."),
    "tf32": (
        [PLAIN],
        {"device": "cpu", "dtype": "tf32"},
        "dtype='tf32' exists on NVIDIA GPUs only; on the CPU use float32 or bf16.",
    ),
    "jobs": (
        [PLAIN],
        {"jobs": 0},
        "jobs=0 is not a number of processes: give a whole number from 1, or leave it out for one per core.",
    ),
    "minutes": (
        [PLAIN],
        {"max_minutes": -1},
        "max_minutes=-1 is not a duration: give a number above 0, or leave it out for no limit.",
    ),
}


@pytest.mark.parametrize(("specs", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_trained(specs, arguments, message, empty, no_training, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SweepArgumentError) as error:
        sweep(specs, store=empty, **arguments)
    assert str(error.value) == message
    assert capsys.readouterr().out == ""


def test_bad_arguments_are_refused_even_where_nothing_is_missing(trained):
    for arguments in ({"device": "cpu", "dtype": "tf32"}, {"max_minutes": math.nan}, {"jobs": 0}):
        with pytest.raises(SweepArgumentError):
            sweep([PLAIN], store=trained, **arguments)


def test_damaged_run_is_refused_before_anything_is_trained(trained, tmp_path, no_training):
    store = Store(tmp_path, trained.own)
    (tmp_path / f"{spec(2).key}.npz").write_bytes(b"")
    with pytest.raises(StoreError, match=f"{spec(2).key}.npz is not a sound run"):
        sweep([PLAIN, spec(2), spec(3)], store=store)


def test_all_damaged_runs_of_ones_own_are_named_at_once(tmp_path, no_training):
    damaged = [tmp_path / f"{spec(seed).key}.npz" for seed in (2, 3)]
    for path in damaged:
        path.write_text("not a run")
    with pytest.raises(StoreError) as error:
        train_missing([spec(2), spec(3)], store=Store(tmp_path, tmp_path / "published"))
    lines = str(error.value).splitlines()
    assert [line.split(" is not a sound run (it is no npz file")[0] for line in lines] == list(map(str, damaged))


def test_stacks_are_even_and_the_longest_come_first(empty):
    width = 16
    limit = stack_size(spec(width=width), "cpu", "float32")
    specs = [spec(seed, width=width) for seed in range(limit + 2)] + [spec(width=32, epochs=100), spec(snapshots=(3,), width=width)]
    stacks = plan(specs, empty, device="cpu").stacks()
    assert sorted(one.key for stack in stacks for one in stack.specs) == sorted(one.key for one in specs)
    assert stacks[0].specs == (specs[-2],)
    assert sorted(len(stack.specs) for stack in stacks) == [1, 1, limit // 2 + 1, limit // 2 + 1]
    assert [stack.cost for stack in stacks] == sorted((stack.cost for stack in stacks), reverse=True)


def test_wide_perceptrons_are_trained_alone_and_narrow_ones_together_more_of_them_with_half_as_many_bytes():
    images = DataSpec(name="mnist", label_noise=0)
    shapes = [ModelSpec(name="mlp", depth=5, width=width) for width in (128, 256, 512, 1024)]
    sizes = {dtype: [stack_size(spec(model=shape, data=images), "cpu", dtype) for shape in shapes] for dtype in ("float32", "bf16")}
    assert sizes == {"float32": [9, 3, 1, 1], "bf16": [9, 6, 2, 1]}


def test_a_sweep_that_another_has_done_meanwhile_has_nothing_to_train(trained, capsys):
    executor.train(plan([PLAIN], trained, device="cpu"), trained)
    assert "1 found, 0 to train" in capsys.readouterr().out


def test_estimate_learns_from_the_runs_found(trained, tmp_path):
    new = spec(epochs=6000)
    alone = estimate_seconds(new) / 60
    fresh = plan([new], Store(tmp_path / "none", tmp_path), device="cpu", jobs=1)
    assert fresh.minutes == pytest.approx(alone)
    assert plan([new], trained, device="cpu", jobs=2).minutes == pytest.approx(alone)  # one run is no work for two processes
    three = plan([spec(seed, epochs=6000) for seed in range(3)], trained, device="cpu", jobs=2)
    assert three.minutes == pytest.approx(2 * alone) and three.jobs == 2  # two and one
    slow = Store(tmp_path / "slow", tmp_path)
    run = trained.load(PLAIN.key)
    slow.save(dataclasses.replace(run, provenance=run.provenance | {"seconds": 7 * estimate_seconds(PLAIN)}))
    assert plan([PLAIN, new], slow, device="cpu", jobs=1).minutes == pytest.approx(7 * alone)
    slow.save(dataclasses.replace(run, provenance=run.provenance | {"seconds": 1e9, "hardware": "another"}))
    assert plan([PLAIN, new], slow, device="cpu", jobs=1).minutes == pytest.approx(alone)
    assert str(fresh) == f"1 run: 0 found, 1 to train, about {alone:.0f} minutes (cpu, float32, 1 process)."


def test_environment_of_workers_is_theirs_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    with executor.worker_environment():
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert os.environ["MALLOC_TOP_PAD_"] == "268435456"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MALLOC_TOP_PAD_" not in os.environ


def test_training_needs_no_pandas_and_the_store_no_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'platformdirs', 'tqdm'): sys.modules[name] = None\n"
        "import ncbook.store\n"
        "del sys.modules['torch']\n"
        "import ncbook.sweep\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
