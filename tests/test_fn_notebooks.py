"""The notebooks of part two, executed through papermill on runs made up for the test: some collapse, some do not, some diverge."""

import inspect
import re
import zlib

import numpy as np
import papermill
import pytest
from test_notebooks import figures, glued, markdown_tables, outputs, used_names

from ncbook.analysis import estimate
from ncbook.chapters import CHAPTERS, chapter_specs
from ncbook.fn.experiments import THRESHOLD
from ncbook.fn.onset import onsets
from ncbook.fn.pages import with_interval
from ncbook.store import PROVENANCE, Run, Store
from ncbook.sweep import load_runs, table

TOY = {"data": "mnist", "subset": 300, "switch": 10, "epochs": 90, "seeds": [0, 1]}
"""No such network is trained: the runs of these specs are made up."""
VALUES = {
    "fn_calibration": TOY
    | {
        "optimizers": ["adam 0.001", "sgd 0.05"],
        "optimizer_states": ["kept"],
        "widths": [64],
        "learning_rates": [1e-3],
        "batch_sizes": [128],
    },
    "fn_baseline": TOY,
    "fn_depth": TOY | {"depths": [1, 5]},
    "fn_activation": TOY | {"activations": ["relu", "gelu"]},
    "fn_weight_decay": TOY | {"weight_decays": [0.0, 1e-4, 1e-2]},
    "fn_full_scale": TOY | {"activations": ["relu", "tanh"], "weight_decays": [1e-4, 1e-2]},
    "fn_width": TOY | {"widths": [64]},
    "fn_conditions": TOY | {"learning_rates": [3e-4, 1e-3], "batch_sizes": [64], "optimizers": ["sgd 0.05"]},
    "fn_intervention": TOY | {"delays": [8]},
    "fn_predictor": TOY | {"experiments": ["fn_weight_decay"]},
    "explore_collapse": TOY | {"experiments": ["fn_weight_decay", "fn_width"]},
    "fn_equilibrium": TOY | {"weight_decays": [1e-4, 1e-3], "learning_rates": [1e-3, 2e-3]},
    "fn_cifar_resnet20": TOY | {"data": "mnist", "width": 4},
    "fn_grid": {name: value for name, value in TOY.items() if name != "data"} | {"resnet_width": 4},
}
"""Chapter -> its parameters here."""
METRICS = (
    "nc1_clean nc2_equiangularity_clean nc2_equinorm_clean nc2_gram_clean nc2_weight_equiangularity nc2_weight_equinorm nc3_clean "
    "nc3_uncentred_clean nc4_clean test_error test_loss train_loss"
).split()


def made_up(spec, collapses=True, diverges=False) -> Run:
    """A run of the spec whose NC1 decays exponentially after the switch, from above `THRESHOLD` to below it if it `collapses`.

    The rate, and the norm to which fn decays, differ a little by the spec's key.
    """
    variation = np.random.default_rng(zlib.crc32(spec.key.encode())).uniform(0.9, 1.1, size=2)
    epochs = np.array(spec.recorded_epochs)
    since = epochs - spec.switch.epoch
    nc1 = np.where(since > 0, 0.8 * np.exp(-0.11 * variation[0] * np.maximum(since, 0)), 0.4 * np.exp(-epochs / 20))
    if not collapses:
        nc1 = np.maximum(nc1, 0.03 * variation[0])
    if spec.stop and (below := (since > 0) & (nc1 < spec.stop.nc1)).any():
        ended = epochs >= epochs[below.argmax()] + spec.stop.margin
        last = ended.argmax() if ended.any() else len(epochs) - 1
        epochs, since, nc1 = epochs[: last + 1], since[: last + 1], nc1[: last + 1]
    norm = np.where(since > 0, variation[1] + 4 * np.exp(-since / 8), 20 + epochs / 10)
    error = np.where(since > 0, 0.3 * np.exp(-since / 2), 0.2 * np.exp(-epochs / 2))
    metrics = {name: np.where(since > 0, 0.5, 1.0) * np.exp(-epochs / 50) for name in METRICS}
    if spec.model.name == "mlp":
        layers = [*range(1, spec.model.depth + 1), "classifier"]
        metrics |= {f"squared_norm_{layer}": 2 + np.exp(-epochs / 50) / place for place, layer in enumerate(layers, 1)}
    metrics |= {"nc1_trace_ratio_clean": nc1, "feature_norm": norm, "train_error": error, "train_error_clean": error}
    if diverges:
        metrics = {name: np.where(since > 3, np.nan, values) for name, values in metrics.items()}
    provenance = dict.fromkeys(PROVENANCE, "made up") | {"seconds": 60.0, "stack_members": 1, "threads": 1, "parameters": 1000}
    provenance |= {"versions": {"torch": "0"}, "started": "2026-01-01T00:00:00", "scale": f"{epochs[-1]} epochs, 300 training points"}
    return Run(spec, provenance, epochs, metrics, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Not the clone."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def execute(folder):
    """Executes a chapter whose runs are those of `make`, called with each spec and its number; returns the notebook and the runs."""

    def run(name, make, **changes):
        chapter, values = CHAPTERS[name], VALUES[name] | changes
        store = Store(own=folder / f"{name}-{len(list(folder.iterdir()))}")
        specs = chapter_specs(chapter, values)
        for number, spec in enumerate(specs):
            store.save(make(spec, number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NCBOOK_RUNS", str(store.own))
            notebook = papermill.execute_notebook(chapter.notebook, folder / "out.ipynb", values, cwd=str(folder), progress_bar=False)
        assert {file.stem for file in store.own.iterdir()} == {spec.key for spec in specs}  # nothing was trained
        return notebook, load_runs(specs, store)

    return run


def texts_of(notebook) -> str:
    """All that the runs put on the page as words."""
    html = [output.data["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    boxes = [re.sub(r'href="data:[^"]*"', "", text) for text in html]
    return "\n".join([*glued(notebook).values(), *markdown_tables(notebook).values(), *boxes])


def check_page(notebook):
    """What holds on every page, whatever its runs did."""
    assert used_names(notebook) and not used_names(notebook) - set(glued(notebook))
    assert len(figures(notebook)) == sum("figure" in cell.metadata.get("mystnb", {}) for cell in notebook.cells)
    tables = markdown_tables(notebook)
    assert len(tables) == sum("markdown_format" in cell.metadata.get("mystnb", {}) for cell in notebook.cells)
    written = texts_of(notebook)
    assert not re.search(r"\bnan\b|<NA>|n\.d\.|\binf\b|\bNone\b", written)
    assert "Reduced scale" in written and "300 of the 60,000 training images of MNIST" in written
    named = {cell.metadata["mystnb"]["figure"]["name"] for cell in notebook.cells if "figure" in cell.metadata.get("mystnb", {})}
    referred = set(re.findall(r"\{numref\}`([^`]+)`", "\n".join(cell.source for cell in notebook.cells)))
    assert referred <= named | set(tables)


@pytest.mark.parametrize("name", VALUES)
def test_pages_of_runs_that_collapse(execute, name):
    notebook, runs = execute(name, lambda spec, number: made_up(spec))
    check_page(notebook)
    assert "2 seeds, where the paper has 3" in texts_of(notebook)


@pytest.mark.parametrize("name", VALUES)
def test_pages_of_one_seed_whose_runs_diverge_or_do_not_collapse(execute, name):
    takes_seeds = "seeds" in inspect.signature(CHAPTERS[name].specs).parameters
    changes = {"seeds": [3]} if takes_seeds else {}
    notebook, runs = execute(name, lambda spec, number: made_up(spec, collapses=False, diverges=number == 0), **changes)
    check_page(notebook)
    assert "runs that diverged: 1" in texts_of(notebook)


def test_the_baseline_page_says_what_its_runs_say(execute):
    notebook, runs = execute("fn_baseline", lambda spec, number: made_up(spec, collapses=number > 0), seeds=[0, 1, 2])
    found = onsets(table(runs), THRESHOLD)
    assert found["censored"].tolist() == [True, False, False]
    assert glued(notebook)["fn_star_beside"].startswith(with_interval(estimate(found["fn_star"]).within(0)))
    row = next(line for line in markdown_tables(notebook)["fn-baseline-table"].splitlines() if "epochs after the switch" in line)
    assert with_interval(estimate(found["since_switch"]).within(0), 1) in row and "| 2 of 3 |" in row
    assert glued(notebook)["crossed"] == f"NC1 fell below 0.01 in 2 of 3 runs; 1 stayed above it until epoch {TOY['epochs']}"


def test_a_page_trains_the_runs_that_it_lacks_and_they_measure_what_made_up_ones_do(folder):
    values = {"data": "digits", "subset": 100, "switch": 2, "epochs": 4, "seeds": [0]}
    store = Store(own=folder / "trained")
    chapter = CHAPTERS["fn_baseline"]
    (spec,) = chapter_specs(chapter, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCBOOK_RUNS", str(store.own))
        notebook = papermill.execute_notebook(chapter.notebook, folder / "out.ipynb", values, cwd=str(folder), progress_bar=False)
    assert used_names(notebook) <= set(glued(notebook))
    assert "digits, which the paper does not use" in texts_of(notebook) and glued(notebook)["crossed"].startswith("NC1 ")
    assert set(store.load(spec.key).metrics) == set(made_up(spec).metrics)
