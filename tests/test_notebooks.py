"""The chapters' notebooks: their sources, and their execution through papermill on networks trained for the test."""

import ast
import dataclasses
import inspect
import io
import itertools
import re
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from ncbook import pages, representations
from ncbook.analysis import Estimate, estimate
from ncbook.chapters import CHAPTERS, parameters
from ncbook.data import load
from ncbook.experiments import exp1_specs, exp2_specs, exp3_specs, exp4_specs
from ncbook.metrics import linear_cka
from ncbook.store import Store

EXP1 = CHAPTERS["exp1"]
TOY = {"widths": [2, 4], "epochs": 2, "seeds": [0, 1]}
ONE = {"widths": [4], "models": ["cnn1d"], "optimizers": ["adam"], "epochs": 2, "seeds": [1]}
TOY_SIMILARITY = {
    "small_width": 2, "large_width": 4, "width": 3, "epochs": 3, "drift_epochs": 4, "drift_seeds": [0], "seeds": [0, 1]
}  # fmt: skip
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
    """Executes a chapter from `folder`, with `store` as the user's own runs."""

    def run(values, chapter=EXP1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NCBOOK_RUNS", str(store.own))
            patch.setenv("OMP_NUM_THREADS", "1")
            return papermill.execute_notebook(chapter.notebook, folder / "out.ipynb", values, cwd=str(folder), progress_bar=False)

    return run


@pytest.fixture(scope="module")
def toy(execute):
    return execute(TOY)


@pytest.fixture(scope="module")
def toy_similarity(execute):
    return execute(TOY_SIMILARITY, CHAPTERS["exp4"])


@pytest.fixture(scope="module")
def toy_layers(toy, execute):
    """From the runs of `toy`."""
    return execute(TOY, CHAPTERS["layers"])


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_sources_hold_no_outputs(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_parameters_are_typed_commented_and_first_those_of_the_specs(chapter):
    declared = parameters(chapter)
    needed = list(inspect.signature(chapter.specs).parameters)
    assert list(declared)[: len(needed)] == needed
    assert all(parameter.type != "None" and parameter.help for parameter in declared.values())
    assert chapter.specs(**{name: declared[name].default for name in needed})


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_below_every_figure_stands_where_it_comes_from(chapter):
    cells = nbformat.read(chapter.notebook, as_version=4).cells
    named = [(cell.metadata.get("mystnb", {}).get("figure", {}).get("name"), below) for cell, below in itertools.pairwise(cells)]
    assert [name for name, below in named if name and f'.line("{name}", ' not in below.source] == []


def test_data_below_a_figure_are_those_of_the_stored_runs(toy, store):
    texts = [output.get("data", {}).get("text/html", "") for output in outputs(toy)]
    (line,) = [text for text in texts if 'download="exp1-errors.csv"' in text]
    data = pd.read_csv(io.StringIO(unquote(re.search(r"charset=utf-8,([^\"]*)", line)[1])))
    ours = data[data["source"] == "ncbook"].set_index(["metric", "model", "optimizer", "width"])["mean"]
    assert len(ours) == 16 and set(data["source"]) == {"ncbook", "report"}
    specs = [spec for spec in toy_specs(TOY["seeds"]) if (spec.model.name, spec.optimizer.name, spec.model.width) == ("cnn1d", "sgd", 2)]
    errors = [store.load(spec.key).metrics["test_error"][-1] for spec in specs]
    assert ours["test_error", "cnn1d", "sgd", 2] == pytest.approx(np.mean(errors), rel=1e-6)
    assert 'ncbook run exp1 -p widths "[2, 4]" -p epochs 2 -p seeds "[0, 1]"' in line


def test_glued_numbers_are_those_of_the_stored_runs(toy, store):
    texts = glued(toy)
    runs = [store.load(spec.key) for spec in toy_specs(TOY["seeds"])]
    assert len(runs) == 16
    for model in ("resnet1d", "cnn1d"):
        for optimizer in ("sgd", "adam"):
            mine = [run for run in runs if (run.spec.model.name, run.spec.optimizer.name, run.spec.model.width) == (model, optimizer, 4)]
            errors = [run.metrics["test_error"][-1] for run in mine]
            assert texts[f"{model}_{optimizer}_widest_error"] == pages.with_interval(estimate(errors).within(0, 1))
    assert texts["widths"] == "2 e 4" and texts["epochs"] == "2" and texts["seeds"].startswith("media di 2 semi")


def test_every_name_in_the_prose_is_glued_and_every_figure_drawn(toy):
    assert used_names(toy) and not used_names(toy) - set(glued(toy))
    assert not [name for name, text in glued(toy).items() if "nan" in text]
    assert len(figures(toy)) == sum("figure" in cell.metadata.get("mystnb", {}) for cell in toy.cells)


def test_the_scale_is_said_with_its_difference_from_the_report(toy):
    (box,) = [output.data["text/html"] for output in outputs(toy) if "admonition" in output.get("data", {}).get("text/html", "")]
    assert "Scala ridotta" in box and "2 epoche invece delle 3.000 del report" in box and "float32" in box
    assert "semi 0 e 1 (nel report: un seme solo)" in box


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
    assert glued(after)["resnet1d_sgd_widest_error"] == pages.with_interval(estimate([0.123, other]).within(0, 1))
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


def tables(notebook) -> str:
    return "\n".join(output.data["text/markdown"] for output in outputs(notebook) if "text/markdown" in output.get("data", {}))


@pytest.mark.parametrize(
    ("name", "values", "specs", "metric", "number", "unmoved"),
    [
        (
            "exp2",
            {"widths": [2, 3], "epochs": 3, "seeds": [0]},
            exp2_specs([2, 3], 3, [0], 0.2, 0),
            "test_error",
            lambda run: f"| {run.spec.model.width} | {pages.number(run.metrics['test_error'].min())} |",
            "exp2-report-collapse",
        ),
        (
            "exp3",
            {"feature_dims": [2, 3], "width": 4, "epochs": 2, "seeds": [0]},
            exp3_specs([2, 3], 4, 2, [0], 0.2, 0),
            "nc2_gram_noisy",
            lambda run: f"| {run.spec.model.feature_dim} | {pages.number(run.metrics['nc2_gram_noisy'][-1], 2)} |",
            "exp3-errors",
        ),
    ],
    ids=["exp2", "exp3"],
)
def test_numbered_tables_and_figures_are_those_of_the_stored_runs(execute, store, name, values, specs, metric, number, unmoved):
    before = execute(values, CHAPTERS[name])
    texts = glued(before)
    assert used_names(before) and not used_names(before) - set(texts)
    assert not [text for text in [*texts.values(), tables(before)] if "nan" in text]
    drawn = [cell.metadata["mystnb"]["figure"]["name"] for cell in before.cells if "figure" in cell.metadata.get("mystnb", {})]
    assert len(figures(before)) == len(drawn)
    runs = [store.load(spec.key) for spec in specs]
    assert all(number(run) in tables(before) for run in runs)

    altered = dataclasses.replace(runs[0], metrics={**runs[0].metrics, metric: runs[0].metrics[metric] + 0.123})
    try:
        store.save(altered)
        after = execute(values, CHAPTERS[name])
    finally:
        store.save(runs[0])
    assert number(altered) in tables(after) and number(runs[0]) not in tables(after) and number(runs[1]) in tables(after)
    redrawn = {figure for figure, old, new in zip(drawn, figures(before), figures(after)) if old != new}
    assert redrawn and unmoved not in redrawn


def markdown_tables(notebook) -> dict[str, str]:
    """Name -> source of the numbered tables that the notebook makes."""
    texts = [output.data["text/markdown"] for output in outputs(notebook) if "text/markdown" in output.get("data", {})]
    return {re.search(r":name: (\S+)", text)[1]: text for text in texts}


@pytest.mark.parametrize("name", ["toy_similarity", "toy_layers"])
def test_chapters_on_layers_glue_every_name_and_draw_every_figure_and_table(request, name):
    notebook = request.getfixturevalue(name)
    assert used_names(notebook) and not used_names(notebook) - set(glued(notebook))
    assert not [key for key, text in glued(notebook).items() if "nan" in text]
    assert len(figures(notebook)) == sum("figure" in cell.metadata.get("mystnb", {}) for cell in notebook.cells)
    tables = markdown_tables(notebook)
    assert len(tables) == sum("markdown_format" in cell.metadata.get("mystnb", {}) for cell in notebook.cells)
    referred = set(re.findall(r"\{numref\}`([^`]+)`", "\n".join(cell.source for cell in notebook.cells)))
    named = {cell.metadata["mystnb"]["figure"]["name"] for cell in notebook.cells if "figure" in cell.metadata.get("mystnb", {})}
    assert referred == named | set(tables)


def test_the_similarity_on_the_page_is_that_of_the_stored_weights(toy_similarity, store):
    specs = exp4_specs(**TOY_SIMILARITY, label_noise=0.2, noise_seed=0)
    runs = {(run.spec.model.width, run.spec.seed): run for run in (store.load(spec.key) for spec in specs)}
    data = load(specs[0].data)
    x = data.x_train[representations.probe(data, 500, 0)]
    first, second = (representations.representation(runs[3, seed], 3, x)["L1"] for seed in (0, 1))
    row = f"| L1 | {pages.with_interval(Estimate(float(linear_cka(first, second)), np.nan, np.nan, 2))} |"
    assert row in markdown_tables(toy_similarity)["exp4-seeds-table"]
    assert "nessun intervallo" in glued(toy_similarity)["cross_seed_pairs"]


def test_the_toy_of_the_layers_trains_nothing_new_and_says_its_scale(toy_layers, store):
    assert {spec.key for spec in toy_specs(TOY["seeds"])} <= set(store.keys())
    (box,) = [output.data["text/html"] for output in outputs(toy_layers) if "admonition" in output.get("data", {}).get("text/html", "")]
    assert "2 epoche invece delle 3.000 del report" in box and "configurazioni" not in box


@pytest.mark.parametrize(("explorer", "chapter"), [("explore_width", "exp1"), ("explore_dimension", "exp3"), ("explore_cka", "exp4")])
def test_an_explorer_shows_the_networks_of_its_chapter(explorer, chapter):
    ours, theirs = ({name: parameter.default for name, parameter in parameters(CHAPTERS[name]).items()} for name in (explorer, chapter))
    assert {name: ours[name] for name in inspect.signature(CHAPTERS[explorer].specs).parameters}.items() <= theirs.items()


def pictures(notebook) -> list[str]:
    """What the widgets of a notebook can show, without what is drawn by cells of colour."""
    models = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    return [re.sub(r'href="data:[^"]*"', "", model["state"]["value"]) for model in models if model["model_name"] == "HTMLModel"]


@pytest.mark.parametrize(
    ("name", "values", "titles"),
    [
        ("explore_width", TOY, {f"{model} con {o}, W = {w}" for model in ("ResNet1D", "CNN1D") for o in ("SGD", "Adam") for w in (2, 4)}),
        ("explore_width", ONE, {"CNN1D con Adam, W = 4"}),
        ("explore_dimension", {"feature_dims": [3, 2], "width": 4, "epochs": 2, "seeds": [0]}, {"d = 2", "d = 3"}),
    ],
    ids=["width", "width-one", "dimension"],
)
def test_explorers_show_any_networks(toy, execute, name, values, titles):
    notebook = execute(values, CHAPTERS[name])
    assert used_names(notebook) and not used_names(notebook) - set(glued(notebook))
    shown = pictures(notebook)
    assert {re.search("<strong>(.*?)</strong>", picture)[1] for picture in shown} == titles and len(shown) == len(titles)
    assert not [text for text in [*shown, *glued(notebook).values()] if re.search(r"\bnan\b", text)]
    views = [output for output in outputs(notebook) if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert len(views) == 1


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "W = 2 (righe) e W = 4 (colonne), epoca 3"),
        ({"seeds": [0], "drift_epochs": 3}, "W = 2, seme 0 (righe) e W = 4, seme 0 (colonne), epoca 3"),
    ],
    ids=["two-seeds", "one-seed"],
)
def test_the_explorer_of_similarity_shows_any_networks(toy_similarity, execute, changes, first):
    notebook = execute(TOY_SIMILARITY | changes, CHAPTERS["explore_cka"])
    assert used_names(notebook) and not used_names(notebook) - set(glued(notebook))
    shown = pictures(notebook)
    assert f"CKA: {first}" in shown[0]
    assert not [text for text in [*shown, *glued(notebook).values()] if re.search(r"\bnan\b", text)]
    assert len([output for output in outputs(notebook) if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]) == 3
