"""The first page: the picture of three networks, the curves below it, and the strips of verdicts."""

import ast
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ncbook import analysis, front_page
from ncbook.chapters import ROOT
from ncbook.data import load
from ncbook.experiments import exp1_specs
from ncbook.representations import activations
from ncbook.sweep import load_runs, table, train_missing

CLASSES = [0, 1, 2]


def collapsed(scatter: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features `[90, 12]` at the ten corners of a simplex, turned and moved, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 10
    corners = np.eye(10, 12) @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    return corners[labels] + 7 + scatter * rng.normal(size=(90, 12)), labels


def test_a_simplex_is_an_equilateral_triangle_with_the_first_class_on_top():
    features, labels = collapsed()
    points, corners = front_page.plane(features, labels, CLASSES)
    expected = np.array([[0, 1], [-np.sqrt(3) / 2, -0.5], [np.sqrt(3) / 2, -0.5]])
    assert corners == pytest.approx(expected, abs=1e-9)
    assert points[labels == 1] == pytest.approx(np.tile(expected[1], (9, 1)), abs=1e-9)


def test_the_picture_does_not_depend_on_how_features_are_turned_moved_or_scaled():
    features, labels = collapsed(0.3)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))[0]
    for ours, theirs in zip(front_page.plane(features, labels, CLASSES), front_page.plane(3 * features @ turn - 2, labels, CLASSES)):
        assert theirs == pytest.approx(ours, abs=1e-9)


@pytest.mark.parametrize(
    ("errors", "widths"),
    [
        ({2: 0.6, 4: 0.1, 8: 0.3, 16: 0.2, 32: 0.15}, [4, 8, 32]),
        ({2: 0.6, 4: 0.5, 8: 0.3, 16: 0.2, 32: 0.15}, [2, 8, 32]),
        ({4: 0.6}, [4]),
    ],
    ids=["peak", "monotone", "one width"],
)
def test_shown_are_the_minimum_before_the_peak_the_peak_and_the_widest(errors, widths):
    columns = {"model": "resnet1d", "optimizer": "adam", "seed": 0}
    last = pd.DataFrame([{"width": width, "parameters": width**2, "test_error": error, **columns} for width, error in errors.items()])
    assert front_page.shown_widths(last) == widths


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Runs of two widths and two seeds, their last epoch, its means."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCBOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        specs = exp1_specs([2, 4], ["resnet1d"], ["adam"], 2, [1, 0], 0.2, 0)
        train_missing(specs)
        runs = load_runs(specs)
    last = analysis.last_epoch(table(runs))
    return runs, last, analysis.seed_means(last, [front_page.ERROR, front_page.NOISY, front_page.CLEAN])


def test_clouds_are_features_of_the_least_seed_by_the_labels_trained_on(toy):
    runs, last, _ = toy
    data = load(runs[0].spec.data)
    points = front_page.clouds(runs, [2, 4], data, CLASSES)
    (run,) = [run for run in runs if run.spec.seed == 0 and run.spec.model.width == 4]
    features = activations(run, 2, data.x_train)["features"].double().numpy()
    expected = front_page.plane(features, data.y_noisy.numpy(), CLASSES)
    ours = points[points["width"] == 4]
    assert ours[ours["kind"] == "mean"][["x", "y"]].to_numpy() == pytest.approx(expected[1])
    first = np.flatnonzero(data.y_noisy.numpy() == 2)[: front_page.POINTS]
    assert ours[(ours["label"] == 2) & (ours["kind"] == "point")][["x", "y"]].to_numpy() == pytest.approx(expected[0][first])


def test_the_figure_and_its_words_are_those_of_the_runs(toy):
    runs, last, means = toy
    points = front_page.clouds(runs, [2, 4], load(runs[0].spec.data), CLASSES)
    *pictures, errors, collapse = front_page.figure(means, points).axes
    assert [picture.get_title() for picture in pictures] == ["A: $W$ = 2", "B: $W$ = 4"]
    curves = {front_page.ERROR: errors.lines, front_page.NOISY: collapse.lines, front_page.CLEAN: collapse.lines}
    for metric, lines in curves.items():
        expected = means[means["metric"] == metric].sort_values("width")["mean"].tolist()
        assert expected in [list(line.get_ydata()) for line in lines]
    colors = {to_hex(line.get_color()) for line in collapse.lines if line.get_marker() == "o"}
    assert len(colors) == 2
    texts = front_page.texts(last, means, [2, 4])
    error = last[last["width"] == 4]["test_error"].mean()
    assert "has no interior peak" in texts["front_errors"] and f"{error:.3f} [" in texts["front_errors"]
    assert texts["front_seeds"].startswith("mean of 2 seeds")
    shown = front_page.shown(means, points)
    assert shown["kind"].value_counts().to_dict() == {"curve": 6, "point": 2 * 3 * front_page.POINTS, "mean": 6}


@pytest.mark.parametrize(("clean", "said"), [({2: 3.0, 4: 1.0}, "at W = 2 for"), ({2: 0.5, 4: 1.0}, "also for")], ids=["apart", "together"])
def test_where_each_nc1_is_greatest(toy, clean, said):
    _, last, means = toy
    means = means.assign(
        mean=[(clean if metric == front_page.CLEAN else {2: 1.0, 4: 2.0})[width] for metric, width in zip(means["metric"], means["width"])]
    )
    order = front_page.texts(last, means, [2, 4])["front_order"]
    assert f"is greatest at W = 4 for the labels trained on and {said} the true ones; at W = 4 it is 2" in order


@pytest.mark.parametrize("page", ["verdetti", "fn_verdicts"])
def test_every_claim_has_a_cell_with_its_verdict(open_page, html, page):
    notebook = json.loads((ROOT / "executed" / f"{page}.ipynb").read_text(encoding="utf-8"))
    records = [output for cell in notebook["cells"] for output in cell.get("outputs", ()) if "scrapbook" in output.get("metadata", {})]
    glued = {
        record["metadata"]["scrapbook"]["name"]: ast.literal_eval("".join(record["data"]["application/papermill.record/text/plain"]))
        for record in records
    }
    verdicts = {name.removeprefix("verdict_"): text for name, text in glued.items() if name.startswith("verdict_")}
    opened, _ = open_page(f"{html.as_uri()}/executed/front_page.html")
    cells = opened.locator(f'.verdict-cells a[href^="{page}.html#verdict-"]')
    shown = cells.evaluate_all("cells => cells.map(cell => [cell.hash.slice(9), cell.textContent])")
    assert {claim: text.split(": ")[1] for claim, text in shown} == verdicts
    assert all(text.startswith(f"{claim}\N{NO-BREAK SPACE}") for claim, text in shown)
    counts = opened.locator(f'.verdict-counts:has(+ .verdict-cells a[href^="{page}.html"]) .verdict').all_text_contents()
    assert sum(int(text.split()[1]) for text in counts) == len(verdicts)
    for text in counts:
        mark, count, verdict = text.split(maxsplit=2)
        assert list(verdicts.values()).count(verdict) == int(count)
        assert sum(mark in cell for claim, cell in shown) >= int(count)
    opened.close()


def test_the_italian_section_is_marked_as_italian(open_page, html):
    opened, _ = open_page(f"{html.as_uri()}/executed/front_page.html")
    heading = opened.get_by_role("heading", name="In italiano")
    assert heading.evaluate("heading => heading.closest('[lang]').lang") == "it"
    opened.close()
