"""The chapters' notebooks: their sources, and their execution through papermill on networks trained for the test."""

import ast
import dataclasses
import inspect
import re

import nbformat
import numpy as np
import papermill
import pytest

from ncbook import pages
from ncbook.analysis import estimate
from ncbook.chapters import CHAPTERS, parameters
from ncbook.experiments import exp1_specs
from ncbook.store import Store

EXP1 = CHAPTERS["exp1"]
TOY = {"widths": [2, 4], "epochs": 2, "seeds": [0, 1]}
ONE = {"widths": [4], "models": ["cnn1d"], "optimizers": ["adam"], "epochs": 2, "seeds": [1]}
GLUED = "application/papermill.record/text/plain"


def toy_specs(seeds):
    return exp1_specs(TOY["widths"], ["resnet1d", "cnn1d"], ["sgd", "adam"], TOY["epochs"], seeds, 0.2, 0)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def glued(notebook) -> dict[str, str]:
    """Name -> text of everything glued in an executed notebook."""
    records = [output for output in outputs(notebook) if GLUED in output.get("data", {})]
    return {record.metadata["scrapbook"]["name"]: ast.literal_eval(record.data[GLUED]) for record in records}


def used_names(notebook) -> set[str]:
    """What the prose and the captions take from the glue."""
    captions = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "") for cell in notebook.cells]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return set(re.findall(r"\{glue:text\}`([^`]+)`", "\n".join(captions + prose)))


def figures(notebook) -> list[str]:
    return [output.data["image/svg+xml"] for output in outputs(notebook) if "image/svg+xml" in output.get("data", {})]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Not the clone."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def store(folder):
    return Store(own=folder / "runs")


@pytest.fixture(scope="module")
def execute(folder, store):
    """Executes the chapter from `folder`, with `store` as the user's own runs."""

    def run(values):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NCBOOK_RUNS", str(store.own))
            patch.setenv("OMP_NUM_THREADS", "1")
            return papermill.execute_notebook(EXP1.notebook, folder / "out.ipynb", values, cwd=str(folder), progress_bar=False)

    return run


@pytest.fixture(scope="module")
def toy(execute):
    return execute(TOY)


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_sources_hold_no_outputs(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_parameters_are_typed_commented_and_those_of_the_specs(chapter):
    declared = parameters(chapter)
    assert list(declared) == list(inspect.signature(chapter.specs).parameters)
    assert all(parameter.type != "None" and parameter.help for parameter in declared.values())
    assert chapter.specs(**{name: parameter.default for name, parameter in declared.items()})


def test_glued_numbers_are_those_of_the_stored_runs(toy, store):
    texts = glued(toy)
    runs = [store.load(spec.key) for spec in toy_specs(TOY["seeds"])]
    assert len(runs) == 16
    for model in ("resnet1d", "cnn1d"):
        for optimizer in ("sgd", "adam"):
            mine = [run for run in runs if (run.spec.model.name, run.spec.optimizer.name, run.spec.model.width) == (model, optimizer, 4)]
            errors = [run.metrics["test_error"][-1] for run in mine]
            assert texts[f"{model}_{optimizer}_widest_error"] == pages.with_interval(estimate(errors))
    assert texts["widths"] == "2 e 4" and texts["epochs"] == "2" and texts["seeds"].startswith("media di 2 semi")


def test_every_name_in_the_prose_is_glued_and_every_figure_drawn(toy):
    assert used_names(toy) and not used_names(toy) - set(glued(toy))
    assert not [name for name, text in glued(toy).items() if "nan" in text]
    assert len(figures(toy)) == sum("figure" in cell.metadata.get("mystnb", {}) for cell in toy.cells)


def test_the_scale_is_said_with_its_difference_from_the_report(toy):
    (box,) = [output.data["text/html"] for output in outputs(toy) if "admonition" in output.get("data", {}).get("text/html", "")]
    assert "Scala ridotta" in box and "2 epoche invece delle 3.000 del report" in box and "semi 0 e 1" in box and "float32" in box


def test_changing_a_stored_run_changes_the_page(toy, execute, store):
    before = glued(toy)
    spec = next(spec for spec in toy_specs([0]) if spec.model.width == 4 and spec.model.name == "resnet1d" and spec.optimizer.name == "sgd")
    run = store.load(spec.key)
    try:
        store.save(dataclasses.replace(run, metrics={**run.metrics, "test_error": np.full(len(run.epochs), 0.123)}))
        after = execute(TOY)
    finally:
        store.save(run)
    changed = {name for name, text in glued(after).items() if text != before[name]}
    assert {"resnet1d_sgd_widest_error", "resnet1d_test_error_difference"} <= changed
    assert not {name for name in changed if name.startswith("cnn1d")}
    other = store.load(dataclasses.replace(spec, seed=1).key).metrics["test_error"][-1]
    assert glued(after)["resnet1d_sgd_widest_error"] == pages.with_interval(estimate([0.123, other]))
    assert figures(after)[0] != figures(toy)[0]
    assert figures(after)[2] == figures(toy)[2]  # the collapse metrics are what they were


def test_a_single_network_of_them_makes_a_page_without_training_and_intervals(toy, execute, store):
    trained = store.keys()
    notebook = execute(ONE)
    assert store.keys() == trained
    texts = glued(notebook)
    assert not used_names(notebook) - set(texts)
    assert texts["seeds"] == "un solo seme, nessun intervallo" and "un solo seme" in texts["seed_limits"]
    assert texts["resnet1d_sgd_peak"] == "n.d." and texts["cnn1d_adam_peak"] == "nessuno"
    assert "[" not in texts["cnn1d_adam_widest_error"] and len(figures(notebook)) == 4
