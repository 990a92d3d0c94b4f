"""The store: what goes in comes out, and nothing unsound gets in or out."""

import dataclasses
import errno
import json
import shutil
import zipfile

import numpy as np
import pytest

from ncbook.spec import ModelSpec, OptimizerSpec, RunSpec
from ncbook.store import Run, Store, StoreError


def spec(seed=0, **changes):
    model, optimizer = ModelSpec(name="resnet1d", width=4), OptimizerSpec(name="adam", lr=1e-3)
    return RunSpec(**{"model": model, "optimizer": optimizer, "epochs": 5, "seed": seed, "snapshots": (0, 5)} | changes)


def make_run(seed=0, **changes):
    random = np.random.default_rng(seed)
    weight = random.random((3, 2)).astype(np.float16).astype(np.float32)
    return Run(
        spec=spec(seed, **changes),
        provenance={
            "device": "cpu",
            "hardware": "abacus",
            "dtype": "float32",
            "threads": 1,
            "stack_members": 2,
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 1.5,
            "versions": {"torch": "2"},
            "parameters": 17,
            "data": "mnist1d",
            "scale": "5 epochs",
        },
        epochs=np.arange(1, 6),
        metrics={"test_error": random.random(5), "nc1_noisy": np.array([1.0, 0.5, np.nan, np.nan, np.nan])},
        states={epoch: {"blocks.0.weight": weight, "steps": np.array(epoch)} for epoch in (0, 5)},
    )


RUN = make_run()
KEY = RUN.spec.key


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "own", tmp_path / "published")


def assert_equal_runs(one, other):
    assert one.spec == other.spec
    assert one.provenance == other.provenance
    np.testing.assert_array_equal(one.epochs, other.epochs)
    assert one.metrics.keys() == other.metrics.keys()
    for name in one.metrics:
        np.testing.assert_array_equal(one.metrics[name], other.metrics[name])
        assert other.metrics[name].dtype == np.float64
    assert {epoch: set(state) for epoch, state in one.states.items()} == {epoch: set(state) for epoch, state in other.states.items()}
    for epoch, state in one.states.items():
        for name, values in state.items():
            np.testing.assert_array_equal(values, other.states[epoch][name], strict=True)


def test_what_goes_in_comes_out(store):
    assert KEY not in store
    store.save(RUN)
    assert KEY in store
    assert store.keys() == [KEY]
    assert_equal_runs(RUN, store.load(KEY))
    assert [path.name for path in store.own.iterdir()] == [f"{KEY}.npz"]


def test_weights_come_back_rounded_to_half_precision(store):
    weight = np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32)
    diverged = np.array([1e30, np.nan, 1.1], np.float32)
    store.save(dataclasses.replace(RUN, states={epoch: {"weight": weight, "diverged": diverged} for epoch in RUN.states}))
    back = store.load(KEY).states[5]
    assert back["weight"].dtype == np.float32
    np.testing.assert_allclose(back["weight"], weight, rtol=2**-11, atol=2**-25)
    assert not np.array_equal(back["weight"], weight)
    np.testing.assert_array_equal(back["diverged"], diverged)
    first = store.path(KEY).read_bytes()
    store.save(store.load(KEY))
    assert store.path(KEY).read_bytes() == first


def test_equal_runs_are_equal_bytes(store, tmp_path):
    other = Store(tmp_path / "other", tmp_path / "published")
    store.save(RUN)
    shuffled = dict(reversed(RUN.metrics.items()))
    other.save(dataclasses.replace(RUN, metrics=shuffled, provenance=dict(reversed(RUN.provenance.items()))))
    assert store.path(KEY).read_bytes() == other.path(KEY).read_bytes()


def test_default_places(monkeypatch, tmp_path):
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "mine"))
    assert Store().own == tmp_path / "mine"
    assert Store().published.parts[-2:] == ("book", "runs")
    monkeypatch.delenv("NCBOOK_RUNS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    assert "ncbook" in Store().own.parts
    assert Store().own.name == "runs"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="NCBOOK_RUNS=.*file is no folder: name the one that is to hold your runs."):
        Store()


def test_missing_run(store):
    with pytest.raises(StoreError, match=f"There is no run {KEY} in .*own or .*published: train it with `sweep`, or import it."):
        store.load(KEY)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def flip_in_the_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def pickle_inside(path):
    np.savez(path, spec=np.array([{}], dtype=object))


def plain_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def rewrite(**changes):
    """A damage that replaces arrays in the file, or removes them where None."""

    def damage(path):
        with np.load(path) as content:
            arrays = dict(content) | changes
        np.savez(path, **{name: values for name, values in arrays.items() if values is not None})

    return damage


def metric_too_short(path):
    rewrite(**{"metric.test_error": np.zeros(4)})(path)


def other_epochs(path):
    rewrite(epochs=np.arange(5))(path)


def no_metrics(path):
    rewrite(**{"metric.test_error": None, "metric.nc1_noisy": None})(path)


def lost_weights(path):
    rewrite(**{"state.5.steps": None, "state.5.blocks.0.weight": None})(path)


def bad_spec(path):
    rewrite(spec=np.array(json.dumps(RUN.spec.to_dict() | {"epochs": 0})))(path)


def spec_of_another_run(path):
    rewrite(spec=np.array(json.dumps(spec(1).to_dict())))(path)


def short_provenance(path):
    rewrite(provenance=np.array('{"device": "cpu"}'))(path)


DAMAGES = {
    truncate: "it is no npz file, or only the beginning of one",
    empty: "it is no npz file, or only the beginning of one",
    flip_in_the_middle: "it cannot be read",
    pickle_inside: "it cannot be read, ValueError: Object arrays cannot be loaded when allow_pickle=False",
    plain_array: "it is no npz file, or only the beginning of one",
    metric_too_short: "test_error should have one value for each of the 5 epochs",
    other_epochs: "its epochs are not those that its spec records",
    no_metrics: "it holds no metrics",
    lost_weights: "it holds the weights of epochs [0] instead of [0, 5]",
    bad_spec: "it cannot be read, SpecError: epochs=0 is too small: it must be at least 1",
    spec_of_another_run: f"it holds the run {spec(1).key}",
    short_provenance: "its provenance lacks data, dtype, hardware, parameters, scale, seconds, stack_members, started, threads, versions",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_file_is_refused_by_name_with_the_way_out(store, damage):
    store.save(RUN)
    path = store.path(KEY)
    damage(path)
    with pytest.raises(StoreError) as error:
        store.load(KEY)
    assert str(error.value).startswith(f"{path} is not a sound run ({DAMAGES[damage]}")
    assert str(error.value).endswith("): delete it, then train or import that run again.")
    assert list(store.verify()) == [(path, str(error.value))]


def test_no_single_flipped_byte_changes_a_run_unnoticed(store):
    store.save(RUN)
    path = store.path(KEY)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert_equal_runs(RUN, store.load(KEY))
        except StoreError:
            refused += 1
    assert refused > len(whole) / 7 / 2


LACKING = {
    "memory": MemoryError("no room"),
    "open files": OSError(errno.EMFILE, "Too many open files"),
    "the right": PermissionError(errno.EACCES, "Permission denied"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_cannot_be_read_now_is_neither_called_damaged_nor_replaced(lacking, store, monkeypatch):
    """Nobody is told to delete a sound run, and no checkpoint is passed over."""
    store.save(RUN)
    store.save_checkpoint(KEY, {"a": np.zeros(3)})

    def fail(*arguments, **options):
        raise LACKING[lacking]

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(StoreError, match=rf"{KEY}.npz is not to be read now \(.*\): mend that, .* and try again.$"):
        store.load(KEY)
    with pytest.raises(StoreError, match=rf"{KEY}.npz is not to be read now \(.*\): mend that, .* and try again.$"):
        store.load_checkpoint(KEY)
    monkeypatch.undo()
    assert store.load(KEY).spec == RUN.spec and store.load_checkpoint(KEY) is not None


def test_renamed_file_is_refused(store):
    store.save(RUN)
    other = spec(1).key
    store.path(KEY).rename(store.own / f"{other}.npz")
    with pytest.raises(StoreError, match=rf"{other}.npz is not a sound run \(it holds the run {KEY}\)"):
        store.load(other)


def test_verify_reads_both_places_and_stray_names(store):
    for run in (RUN, make_run(1)):
        store.save(run)
    store.publish([KEY])
    shutil.copy(store.own / f"{KEY}.npz", store.own / "copy.npz")
    truncate(store.own / f"{spec(1).key}.npz")
    problems = {path: problem for path, problem in store.verify()}
    assert problems.pop(store.published / f"{KEY}.npz") is None
    assert problems.pop(store.own / f"{KEY}.npz") is None
    assert "copy.npz is not a sound run" in problems.pop(store.own / "copy.npz")
    assert "only the beginning of one" in problems.pop(store.own / f"{spec(1).key}.npz")
    assert not problems


def test_unsound_run_is_not_saved(store):
    run = dataclasses.replace(RUN, metrics={"test_error": np.zeros(2)})
    with pytest.raises(StoreError, match=f"The run {KEY} is not sound and was not stored: test_error should have one value"):
        store.save(run)
    assert KEY not in store


def test_failed_write_leaves_the_old_file_and_no_other(store, monkeypatch):
    store.save(RUN)
    before = store.path(KEY).read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(StoreError, match=f"{KEY}.npz cannot be written \\(No space left on device\\): make room or choose another place"):
        store.save(RUN)
    assert [path.name for path in store.own.iterdir()] == [f"{KEY}.npz"]
    assert store.path(KEY).read_bytes() == before


def test_writers_of_one_file_do_not_meet(store, monkeypatch):
    """The second, with the same process id as in another container, begins and ends while the first is at work."""
    write = np.savez_compressed

    def interrupted(file, **arrays):
        monkeypatch.setattr(np, "savez_compressed", write)
        store.save(RUN)
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    store.save(RUN)
    assert_equal_runs(RUN, store.load(KEY))
    assert [path.name for path in store.own.iterdir()] == [f"{KEY}.npz"]


def test_folder_that_cannot_be_written_is_refused_beforehand(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written .*NCBOOK_RUNS names the store's"):
        Store(tmp_path / "file", tmp_path).require_writable()
    store = Store(tmp_path / "own", tmp_path)
    store.require_writable()
    assert not [path for path in store.own.rglob("*") if path.is_file()]


def test_publish_copies_once_and_only_what_is_sound(store):
    other = make_run(1)
    store.save(RUN)
    store.save(other)
    assert store.publish([KEY]) == 1
    assert store.publish([KEY]) == 0
    assert store.path(KEY).parent == store.published
    assert store.path(KEY).read_bytes() == (store.own / f"{KEY}.npz").read_bytes()
    truncate(store.own / f"{other.spec.key}.npz")
    with pytest.raises(StoreError, match="is not a sound run"):
        store.publish([other.spec.key])
    with pytest.raises(StoreError, match="There is no run"):
        store.publish([spec(2).key])
    assert [path.name for path in store.published.iterdir()] == [f"{KEY}.npz"]


def test_export_and_import(store, tmp_path):
    runs = [make_run(seed) for seed in range(3)]
    for run in runs:
        store.save(run)
    store.publish([KEY])
    file = tmp_path / "runs.zip"
    assert store.export_runs(file, store.keys()) == 3
    assert store.export_runs(tmp_path / "again.zip", store.keys()) == 3
    assert file.read_bytes() == (tmp_path / "again.zip").read_bytes()
    there = Store(tmp_path / "there", tmp_path / "nothing")
    there.save(runs[2])
    assert there.import_runs(file) == (2, 1, [])
    assert there.import_runs(file) == (0, 3, [])
    for run in runs:
        assert_equal_runs(run, there.load(run.spec.key))


def test_export_makes_no_folders(store, tmp_path):
    with pytest.raises(StoreError, match="there is no folder .*nowhere; make it first, or choose another."):
        store.export_runs(tmp_path / "nowhere" / "runs.zip", [])
    assert not (tmp_path / "nowhere").exists()


def test_export_of_a_missing_run_writes_nothing(store, tmp_path):
    with pytest.raises(StoreError, match="There is no run"):
        store.export_runs(tmp_path / "runs.zip", [KEY])
    assert not (tmp_path / "runs.zip").exists()


def test_import_refuses_the_bad_by_name_and_takes_the_rest(store, tmp_path):
    for seed in range(3):
        store.save(make_run(seed))
    sound, damaged, foreign = (store.path(spec(seed).key) for seed in range(3))
    truncate(damaged)
    file = tmp_path / "runs.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(damaged, damaged.name)
        archive.write(sound, sound.name)
        archive.write(sound, f"../{spec(3).key}.npz")
        archive.write(sound, "deep/run.npz")
        archive.write(foreign, f"{spec(4).key}.npz")
    there = Store(tmp_path / "there", tmp_path / "nothing")
    result = there.import_runs(file)
    assert (result.new, result.present) == (1, 0)
    assert there.keys() == [sound.stem]
    assert [sentence.split(" ")[0] for sentence in result.refused] == [
        damaged.name,
        f"../{spec(3).key}.npz",
        "deep/run.npz",
        f"{spec(4).key}.npz",
    ]
    assert all(f" of {file} was refused: " in sentence for sentence in result.refused)
    assert "it is no npz file, or only the beginning of one" in result.refused[0]
    assert "a run's file is named by its key, 20 hexadecimal digits and .npz." in result.refused[1]
    assert f"it holds the run {foreign.stem}." in result.refused[3]
    assert not list(tmp_path.glob("*.npz"))


def test_import_of_another_kind_of_file(store, tmp_path):
    (tmp_path / "text").write_text("no zip")
    for name in ("text", "nowhere"):
        with pytest.raises(StoreError, match=f"{name} cannot be imported .*: give a file that `export` wrote."):
            store.import_runs(tmp_path / name)


def test_checkpoints(store):
    one, another = f"{KEY}-cpu", f"{KEY}-cuda"
    assert store.load_checkpoint(one) is None
    arrays = {"weight": np.arange(6.0).reshape(2, 3), "epoch": np.array(7)}
    store.save_checkpoint(one, arrays)
    store.save_checkpoint(another, {})
    store.save_checkpoint(spec(1).key, {})
    again = store.load_checkpoint(one)
    assert again.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name], strict=True)
    assert KEY not in store
    assert list(store.verify()) == []
    store.drop_checkpoints(KEY)
    store.drop_checkpoints(KEY)
    assert store.load_checkpoint(one) is store.load_checkpoint(another) is None
    assert store.load_checkpoint(spec(1).key) is not None


@pytest.mark.parametrize("damage", [truncate, empty, flip_in_the_middle, pickle_inside, plain_array], ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_ignored_with_a_warning(store, damage):
    store.save_checkpoint(KEY, {"weight": np.arange(100.0)})
    damage(store.own / "checkpoints" / f"{KEY}.npz")
    with pytest.warns(UserWarning, match=rf"{KEY}.npz is damaged \(.*\) and is ignored: that run starts anew."):
        assert store.load_checkpoint(KEY) is None
