"""Explorers of networks: the picture behind each option is that of its own run; cosines, projection and small drawings against oracles."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from ipywidgets import HTML, Dropdown, SelectionSlider
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from ncbook import analysis
from ncbook.data import load
from ncbook.experiments import exp1_specs, exp3_specs
from ncbook.explore import svg
from ncbook.explore.courses import shown
from ncbook.explore.dimension import dimension_explorer, dimension_texts
from ncbook.explore.geometry import arrangement, geometry, gram, projection
from ncbook.explore.widgets import drawing, dropdown, explorer, follow, slider
from ncbook.explore.width import width_explorer, width_texts
from ncbook.metrics import gram_floor
from ncbook.pages import curve_name, number, percent, with_article
from ncbook.representations import activations
from ncbook.simplex import simplex_cosines
from ncbook.store import Store
from ncbook.sweep import load_runs, sweep, table


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(own=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def networks(store):
    """Two widths of ResNet1D under SGD with two seeds each, and one of CNN1D under Adam."""
    specs = exp1_specs([2, 4], ["resnet1d"], ["sgd"], 2, [1, 0], 0.2, 0) + exp1_specs([2], ["cnn1d"], ["adam"], 2, [1], 0.2, 0)
    sweep(specs, jobs=1, store=store)
    return load_runs(specs, store)


@pytest.fixture(scope="module")
def projected(store):
    """Feature dimensions on both sides of K − 1 = 9."""
    specs = exp3_specs([2, 9], 9, 2, [0], 0.2, 0)
    sweep(specs, jobs=1, store=store)
    return load_runs(specs, store)


def options(choice_widget) -> list[str]:
    return list(choice_widget.options)


def labels(widget: HTML) -> list[str]:
    """The names of a picture's drawings."""
    root = ElementTree.fromstring(f"<div>{widget.value}</div>".replace("xlink:href", "href"))
    return [element.get("aria-label") for element in root.iter("svg")]


# Choices and what follows them


def test_every_combination_has_its_own_picture_and_starts_with_the_chosen_one():
    first, second = dropdown("A", {"uno": 1, "due": 2}), slider("B", {"x": 10, "y": 20, "z": 30}, "y", play=True)
    whole = explorer([first, second], follow(lambda a, b: f"{a} {b}", first, second), follow(str, second))
    controls, both, alone = whole.children
    assert [[picture.value for picture in stack.children] for stack in both.children] == [
        ["1 10", "1 20", "1 30"], ["2 10", "2 20", "2 30"]
    ]  # fmt: skip
    assert [picture.value for picture in alone.children] == ["10", "20", "30"]
    assert (both.selected_index, both.children[0].selected_index, alone.selected_index) == (0, 1, 1)
    assert [type(control).__name__ for control in controls.children] == ["Dropdown", "Play", "SelectionSlider"]
    assert controls.children[1].max == 2 and controls.children[1].value == 1


def test_a_single_option_is_no_slider():
    assert isinstance(slider("W", {"2": 2}, play=True).widget, Dropdown) and isinstance(
        slider("W", {"2": 2, "4": 4}).widget, SelectionSlider
    )
    with pytest.raises(ValueError, match="'W' has no options"):
        slider("W", {})


def test_a_drawing_keeps_its_words_and_loses_what_is_not_seen():
    figure = Figure(figsize=(4, 2))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1 / 3], "o-")
    ax.set_title("titolo: uno; due")
    found = drawing(figure, 'W < 4 & "altro"')
    root = ElementTree.fromstring(found.replace("xlink:href", "href"))
    assert found.count("</svg>") == 1
    assert root.get("aria-label") == 'W < 4 & "altro"' and root.get("role") == "img" and root.get("viewBox") == "0 0 288 144"
    assert "titolo: uno; due" in root.itertext()
    assert "<style" not in found and "metadata" not in found and "figure_1" not in found
    references = {element.get("href", "#").removeprefix("#") for element in root.iter("use")}
    assert references and references <= {element.get("id") for element in root.iter()}
    assert found == drawing(figure, 'W < 4 & "altro"')


# Small drawings


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0, 1], False, [0, 0.5, 1]),
        ([94, 50624], True, [100, 1000, 10000]),
        ([0.3, 1.2], True, [0.5, 1]),
        ([12, 990], True, [10, 100, 1000]),
        ([0, 10], True, [0, 5, 10]),
        ([np.nan], False, [0, 0.5, 1]),
    ],
)
def test_scales_have_few_round_ticks(values, log, ticks):
    assert svg.scale(values, log).ticks(3) == pytest.approx(ticks)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [0, 3, -3, 1e-9])
def test_equal_values_have_a_scale_too(value, log):
    found = svg.scale([value, value], log)
    assert found.low <= value < found.high and np.isfinite(found.share(value)) and found.ticks()


def test_lines_are_interrupted_where_a_value_is_missing():
    assert svg.through([0, 1, 2, 3, 4], [0, 1, np.nan, 3, 4.04]) == "M0 0L1 1M3 3L4 4"


def test_data_are_put_where_the_axes_say():
    plot = svg.Plot(10, 20, 100, 50, svg.Scale(1, 100, log=True), svg.Scale(0, 1))
    assert np.allclose(plot.place([1, 10, 100], [0, 0.5, 1]), [[10, 60, 110], [70, 45, 20]])


# The geometry of class means


def test_geometry_is_that_of_the_stored_network(networks):
    for run in networks:
        data, found = load(run.spec.data), geometry(run)
        assert found.distance == pytest.approx(run.metrics["nc2_gram_noisy"][-1], rel=1e-2)
        features = activations(run, 2, data.x_train)["features"].double().numpy()
        means = np.stack([features[data.y_noisy.numpy() == k].mean(0) for k in range(10)])
        oracle = PCA(2).fit(means)
        assert found.share == pytest.approx(oracle.explained_variance_ratio_.sum())
        length = np.sqrt(np.square(means - means.mean(0)).sum(1).mean())
        expected = oracle.transform(means) / length
        assert np.allclose(found.centres @ found.centres.T, expected @ expected.T)
        assert found.centres[0] == pytest.approx([np.linalg.norm(found.centres[0]), 0]) and found.centres[1, 1] >= 0
        assert not np.array_equal(found.labels[found.flipped], found.labels[~found.flipped]) and 0 < found.flipped.sum() < len(found.points)


def test_a_perfect_simplex_has_one_cosine_and_two_ninths_in_the_plane():
    labels = np.repeat(np.arange(10), 5)
    found = arrangement(3 + simplex_cosines(10)[labels], labels, np.arange(50) > 20)
    assert found.distance == pytest.approx(0, abs=1e-12) and np.allclose(found.apart, -1 / 9) and found.simplex == -1 / 9
    assert found.share == pytest.approx(2 / 9)
    assert np.allclose(found.points, found.centres[found.labels])


@pytest.mark.parametrize("dim", [1, 2])
def test_one_and_two_features_lie_wholly_in_the_plane(dim):
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(40, dim)), np.arange(40) % 4
    found = arrangement(features, labels, labels < 0)
    assert found.share == pytest.approx(1)
    ours, theirs = (np.linalg.norm(points[:, None] - points, axis=2) for points in (found.points, features))
    assert np.allclose(ours / ours.max(), theirs / theirs.max())
    assert all(ElementTree.fromstring(picture(found, "una")) is not None for picture in (gram, projection))


def test_the_map_and_the_plane_say_their_numbers():
    labels = np.repeat(np.arange(10), 5)
    found = arrangement(simplex_cosines(10)[labels], labels, np.arange(50) > 20)
    assert "W = 4: mappa dei coseni fra le medie di classe; coseni fra due classi da −0,11 a −0,11; quello dell’ETF è −0,11." in gram(
        found, "W = 4"
    )
    picture = projection(found, "W = 4")
    assert "tiene il 22 % della varianza" in picture and "50 punti" in picture
    root = ElementTree.fromstring(picture)
    marks = "".join(element.get("d", "") for element in root.iter("path"))
    assert marks.count("l4 4m0-4l-4 4") == 29 and marks.count("h0") == 21 + 2 * 10


def test_runs_without_weights_are_refused_and_diverged_ones_have_no_geometry(networks):
    run = networks[0]
    with pytest.raises(ValueError, match="keeps no weights"):
        geometry(dataclasses.replace(run, states={}))
    broken = {2: {name: np.full_like(values, np.nan) for name, values in run.states[2].items()}}
    diverged = dataclasses.replace(run, states=broken)
    assert geometry(diverged) is None
    widget = width_explorer([diverged])
    assert "divergente" in widget.children[1].children[0].children[0].value


# The explorers


def test_each_width_shows_its_own_network(networks):
    whole = width_explorer(networks)
    network, width = whole.children[0].children
    assert options(network) == ["ResNet1D con SGD", "CNN1D con Adam"] and options(width) == ["2", "4"]
    last = analysis.last_epoch(table(networks))
    for curve, stack in zip((("resnet1d", "sgd"), ("cnn1d", "adam")), whole.children[1].children, strict=True):
        for size, picture in zip((2, 4), stack.children, strict=True):
            mine = last[(last["model"] == curve[0]) & (last["width"] == size)]
            if mine.empty:
                assert picture.value == "<p>Con W = 4 non c’è nessuna rete CNN1D con Adam.</p>"
                continue
            errors = f"errore di test {number(mine['test_error'].mean())}, di addestramento {number(mine['train_error'].mean())}"
            title = f"{curve_name(*curve)}, W = {size}"
            assert f"<strong>{title}</strong>, {number(mine['parameters'].iloc[0], 0)} parametri: {errors}." in picture.value
            assert [name.startswith(f"{title}: ") for name in labels(picture)] == [True] * 4
            least = mine.sort_values("seed").iloc[0]
            assert f"seme {least['seed']})" in picture.value
            assert f"<td>{number(least['nc1_trace_ratio_noisy'])}</td><td>{number(least['nc1_noisy'])}</td>" in picture.value
            assert f"norme {number(least['nc2_equinorm_clean'])}, angoli {number(least['nc2_equiangularity_clean'])}" in picture.value


def test_without_label_noise_both_labelings_are_the_same(store):
    specs = exp1_specs([3], ["resnet1d"], ["sgd"], 1, [0], 0.0, 0)
    sweep(specs, jobs=1, store=store)
    (run,) = load_runs(specs, store)
    picture = width_explorer([run]).children[1].children[0].children[0]
    nc1, nc2 = (number(run.metrics[metric][-1]) for metric in ("nc1_clean", "nc2_gram_clean"))
    assert f"<td>{nc1}</td><td>{nc1}</td>" in picture.value and len(labels(picture)) == 4
    assert width_texts([run])["nearest"] == f"ResNet1D con SGD e W = 3 (NC2 = {nc2})"
    assert shown([run])["nc4_noisy"].equals(shown([run])["nc4_clean"].rename("nc4_noisy"))


def test_each_dimension_shows_what_is_possible_and_what_was_reached(projected):
    whole = dimension_explorer(projected)
    small, large = (picture.value for picture in whole.children[1].children)
    nc2 = [run.metrics["nc2_gram_noisy"][-1] for run in projected]
    floor = gram_floor(10, 2)
    assert "<strong>d = 2</strong>: un ETF di 10 classi non è possibile, ci vuole d ≥ 9." in small
    assert f"è {number(nc2[0])}; il minimo geometrico, {number(floor)}, ne è {with_article(percent(round(floor / nc2[0], 2)))}." in small
    assert "<strong>d = 9</strong>: un ETF di 10 classi è possibile, poiché d ≥ 9." in large and f"è {number(nc2[1])} e può" in large
    assert whole.children[1].selected_index == 1
    texts = dimension_texts(projected)
    assert texts["possible"] == "d = 9" and texts["nearest"].startswith(f"{number(min(nc2))} a d = {(2, 9)[int(np.argmin(nc2))]}")


def test_words_of_the_width_page_follow_the_runs(networks):
    texts = width_texts(networks)
    assert texts["peaks"] == "nessuna curva ne ha uno" and texts["etf_cosine"] == "−0,11" and texts["etf_share"] == "22 %"
    (share,) = {round(geometry(run).share, 2) for run in networks if run.spec.model.width == 4 and run.spec.seed == 0}
    assert texts["shares"] == f"fra {with_article(percent(share))} e {with_article(percent(share))}"


def test_the_table_of_an_explorer_has_every_epoch_and_the_last_cosines_of_the_networks_drawn(networks):
    found = shown(networks)
    assert len(found) == sum(len(run.epochs) for run in networks)
    ends = found[found["epoch"] == 2].reset_index(drop=True)
    of_drawn = [run.spec.seed == 0 or run.spec.model.name == "cnn1d" for run in networks]
    assert ends["cosine_3_7"][of_drawn].tolist() == [geometry(run).cosines[3, 7] for run, one in zip(networks, of_drawn) if one]
    assert ends["cosine_3_7"].isna().tolist() == [not one for one in of_drawn]
    assert found[found["epoch"] < 2]["cosine_3_7"].isna().all()
    assert ends["test_error"].tolist() == [run.metrics["test_error"][-1] for run in networks]
