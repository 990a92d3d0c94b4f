"""The notebook explore.ipynb: chapters and explorers behind widgets, driven as a reader would, and nothing that ends in a traceback."""

import dataclasses
import html
import re
import signal
import time

import numpy as np
import pytest
from test_cli import keep_runs, ncbook_run, store  # noqa: F401

import ncbook.explore.lab
from ncbook.chapters import CHAPTERS, chapter_specs, parameters
from ncbook.experiments import exp1_specs
from ncbook.explore import live
from ncbook.explore.lab import ChapterLab, Form, Job
from ncbook.explore.live import EXPLORERS, ExplorerLab
from ncbook.fn.experiments import BASELINE, OPTIMIZERS
from ncbook.store import Run, Store

TOY = {"widths": "2", "models": "resnet1d", "optimizers": "sgd", "epochs": 2, "seeds": "0"}


def fill(form, values):
    for name, value in values.items():
        form.fields[name].entry.value = value


def shown(widget):
    """The plain text of an HTML widget."""
    return html.unescape(re.sub(r"<[^>]*>", "", widget.value))


def pictures(widget):
    """The HTML of a widget and all that is in it."""
    return "".join(map(pictures, widget.children)) if hasattr(widget, "children") else str(getattr(widget, "value", ""))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The chapters' panel of a notebook in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ChapterLab()


def test_every_chapter_has_a_field_for_each_parameter_that_gives_back_its_default(monkeypatch):
    monkeypatch.setattr(ncbook.explore.lab, "plan", len)
    for chapter in CHAPTERS.values():
        form = Form(chapter)
        assert [field.value for field in form.fields.values()] == [parameter.default for parameter in parameters(chapter).values()]
        assert form.given == {}
        for name, parameter in parameters(chapter).items():
            assert form.fields[name].entry.description == name and parameter.help in form.fields[name].entry.tooltip


@pytest.mark.parametrize(
    ("name", "entered", "command_line"),
    [
        ("epochs", 0, "0"),
        ("label_noise", 1.5, "1.5"),
        ("widths", "2, a", "[2, a]"),
        ("widths", "4, 4", "[4, 4]"),
        ("widths", "", "[]"),
        ("models", "resnet", "[resnet]"),
    ],
)
def test_a_wrong_value_is_refused_as_on_the_command_line(lab, name, entered, command_line):
    fill(lab.form, {name: entered})
    _, refusal = ncbook_run("run", "exp1", "-p", name, command_line, code=2)
    assert shown(lab.form.cost) == refusal.removeprefix("Error: ").strip()
    assert lab.run.disabled
    fill(lab.form, TOY)
    assert lab.run.disabled == (name not in TOY)


def test_a_list_may_be_written_in_brackets_and_what_is_none_is_refused(lab):
    fill(lab.form, TOY | {"widths": "[2, 4]"})
    assert lab.form.given["widths"] == [2, 4] and not lab.run.disabled
    fill(lab.form, {"widths": "2, {"})
    assert shown(lab.form.cost) == "widths: '2, {' is no list: write its values with commas between them."
    assert lab.run.disabled


def test_the_cost_follows_the_fields_and_the_store(lab, store):  # noqa: F811
    fill(lab.form, TOY | {"widths": "2, 4"})
    assert shown(lab.form.cost).startswith("2 runs: 0 found, 2 to train, less than a minute")
    keep_runs(store, chapter_specs(CHAPTERS["exp1"], lab.form.given)[:1])
    fill(lab.form, {"seeds": "0, 1"})
    assert shown(lab.form.cost).startswith("4 runs: ")


def test_another_chapter_has_other_fields(lab):
    lab.chapter.value = CHAPTERS["exp3"]
    assert "feature_dims" in lab.form.fields and not lab.run.disabled
    fill(lab.form, {"feature_dims": "99"})
    assert lab.run.disabled
    lab.chapter.value = CHAPTERS["exp1"]
    assert not lab.run.disabled


def test_a_chapter_runs_and_is_compared_with_the_published_one(lab, tmp_path, own_store):
    fill(lab.form, TOY)
    waiting = lab.start()
    assert lab.run.disabled
    waiting.join()
    assert shown(lab.job.words).startswith('exp1 is executed. On the command line: ncbook run exp1 -p widths "[2]"')
    assert shown(lab.form.cost).startswith("1 run: 1 found, 0 to train") and len(list(own_store.glob("*.npz"))) == 1
    links, frame = lab.result.children
    (executed,) = tmp_path.glob("ncbook-runs/exp1-*/exp1_model_wise.ipynb")
    assert f'href="{executed.relative_to(tmp_path).as_posix()}"' in links.outputs[0]["data"]["text/html"]
    assert "exp1: 5 of 7 parameters" in frame.value and "&lt;img" in frame.value
    assert not lab.run.disabled and lab.job.progress.layout.display == "none"


def test_a_training_that_is_stopped_goes_on_from_there(lab):
    fill(lab.form, TOY | {"epochs": 100_000})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a kernel that executes no cell
    try:
        waiting = lab.start()
    finally:
        signal.signal(signal.SIGINT, before)
    while not re.search(r"Training: .*\d left", shown(lab.job.words)):  # as soon as it is known how long it will take
        assert waiting.is_alive(), shown(lab.job.words)
        time.sleep(0.1)
    lab.job.stop.click()
    waiting.join()
    assert shown(lab.job.words) == "Stopped. What was trained is kept: the next run goes on from there."
    assert "0 found, 1 to train (1 from a checkpoint)" in shown(lab.form.cost)
    assert not lab.run.disabled and not lab.result.children


def test_what_fails_is_told_in_one_sentence(lab, own_store):
    own_store.write_text("a file where the store's folder should be")
    fill(lab.form, TOY)
    lab.start().join()
    assert shown(lab.job.words) == f"NCBOOK_RUNS={own_store} is no folder: name the one that is to hold your runs."
    job = Job()
    job.start({"Nonsense": ["nonsense"]}, then=lambda: None).join()
    assert shown(job.words) == "No such command 'nonsense'."
    job.start({}, then=lambda: 1 / 0).join()
    assert shown(job.words) == "ZeroDivisionError: division by zero" and not job.busy


def test_every_published_run_that_an_explorer_can_show_is_offered():
    runs = [Store().load(key) for key in Store().keys()]
    offered = {title: {run.spec.key for some in explorer.groups(runs).values() for run in some} for title, explorer in EXPLORERS.items()}
    width, dimension, cka, collapse = offered.values()
    assert width >= {spec.key for spec in chapter_specs(CHAPTERS["exp1"], {}) + chapter_specs(CHAPTERS["exp4"], {})}
    assert (
        dimension
        == {run.spec.key for run in runs if run.spec.model.feature_dim}
        >= {spec.key for spec in chapter_specs(CHAPTERS["exp3"], {})}
    )
    assert cka == {key for key in width if Store().load(key).spec.model.name == "resnet1d"}
    assert collapse >= {spec.key for name in ("fn_depth", "fn_conditions", "fn_grid") for spec in chapter_specs(CHAPTERS[name], {})}


def test_a_training_counts_once_whatever_weights_it_kept():
    few = chapter_specs(CHAPTERS["exp1"], {"widths": [4], "models": ["resnet1d"], "optimizers": ["adam"], "epochs": 5, "seeds": [0]})[0]
    many = dataclasses.replace(few, snapshots=(1, 5))
    runs = [Run(spec, {}, np.array([5]), {}, {epoch: {} for epoch in spec.snapshots}) for spec in (many, few)]
    for title in list(EXPLORERS)[::2][:2]:
        ((shown_one,),) = EXPLORERS[title].groups(runs).values()
        assert shown_one.spec == many


def test_networks_followed_for_longer_are_counted_where_they_are_shown():
    short = exp1_specs([3], ["resnet1d"], ["adam"], 5, [0, 1], 0.2, 0)
    longer = dataclasses.replace(short[0], seed=2, epochs=9, snapshots=(5, 9))
    runs = [Run(spec, {}, np.array([5]), {}, {epoch: {} for epoch in spec.snapshots}) for spec in (*short, longer)]
    found = EXPLORERS["CKA: layer by layer, pair by pair, epoch by epoch"].groups(runs)
    assert {name.rpartition(", ")[2]: len(some) for name, some in found.items()} == {"3 runs": 3, "1 run": 1}


def test_runs_beside_the_sweeps_are_told_by_what_sets_them_apart():
    endless = dataclasses.replace(BASELINE, stop=None, optimizer=OPTIMIZERS["sgd 0.05"])
    told = live._departures(endless)
    assert told == {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "stop": None}
    assert live._departures(dataclasses.replace(BASELINE, seed=3)) == {}


@pytest.mark.parametrize("title", EXPLORERS)
def test_an_explorer_shows_published_runs(title):
    lab = ExplorerLab()
    lab.explorer.label = title
    assert lab.runs.index == 0 and not lab.show.disabled
    lab.runs.index = len(lab.runs.options) - 1
    lab.show.click()
    while lab.job.busy:
        time.sleep(0.1)
    assert shown(lab.job.words) == "" and ("<svg" in pictures(lab.view) or "<table" in pictures(lab.view))


def test_a_new_small_network_is_trained_and_shown_at_once():
    lab = ExplorerLab()
    fill(lab.form, {"widths": "3", "epochs": 2, "seeds": "0"})
    lab.start().join()
    assert shown(lab.job.words) == ""
    assert lab.runs.label == "2 epochs, label noise 0.2: W = 3, 1 run"
    assert "ResNet1D con SGD, W = 3" in pictures(lab.view)
    fill(lab.form, {"widths": "5"})
    lab.start().join()
    assert lab.runs.label == "2 epochs, label noise 0.2: W = 3 to 5, 2 runs"
    assert "ResNet1D con SGD, W = 5" in pictures(lab.view) and "ResNet1D con SGD, W = 3" in pictures(lab.view)
