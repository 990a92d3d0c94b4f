"""Networks rebuilt from stored weights, the similarity of their layers, and the words that the chapters on layers choose."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from ncbook import analysis, claims, metrics, models
from ncbook import representations as rep
from ncbook.analysis import Estimate
from ncbook.chapters import CHAPTERS, chapter_specs
from ncbook.data import load
from ncbook.experiments import exp1_specs, exp4_specs
from ncbook.report import layer_pages
from ncbook.spec import DataSpec, SpecError
from ncbook.store import Run, Store
from ncbook.sweep import load_runs, train_missing
from ncbook.train import StackTrainer

SPECS = exp1_specs([4], ["resnet1d", "cnn1d"], ["adam"], 1, [0, 1], 0.2, 0)


@pytest.fixture(scope="module")
def data():
    return load(DataSpec())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    store = Store(own=tmp_path_factory.mktemp("runs"))
    train_missing(SPECS, jobs=1, store=store)
    return load_runs(SPECS, store)


@pytest.fixture(scope="module")
def resnets(runs, data):
    """The representations of two seeds on the same 200 points, and those points' noisy labels."""
    chosen = rep.probe(data, 200, 1)
    mine = [rep.representation(run, 1, data.x_train[chosen]) for run in runs if run.spec.model.name == "resnet1d"]
    return mine, data.y_noisy[chosen]


def clouds(points=60, dims=(7, 5, 9), classes=4):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(points) % classes
    means = torch.randn(classes, 1, generator=generator)
    return [torch.randn(points, dim, generator=generator) + means[labels] for dim in dims], labels


# Rebuilt networks


def assert_measured(run, data, errors, rel):
    """The network rebuilt from `run` gives what was recorded in training."""
    logits = rep.activations(run, 1, data.x_test)["logits"]
    assert float((logits.argmax(1) != data.y_test).double().mean()) == pytest.approx(run.metrics["test_error"][-1], abs=errors)
    features = rep.activations(run, 1, data.x_train)["features"]
    weight = torch.from_numpy(run.states[1]["classifier.weight"])
    for labels, y in (("noisy", data.y_noisy), ("clean", data.y_clean)):
        for name, value in metrics.collapse_metrics(features, y, weight).items():
            assert float(value) == pytest.approx(run.metrics[f"{name}_{labels}"][-1], rel=rel), name


def test_the_rebuilt_network_is_the_one_that_was_measured(data):
    for spec in SPECS:
        trainer = StackTrainer([spec])
        trainer.run_epoch()
        result = trainer.results()[0]
        assert_measured(Run(spec, {}, result["epochs"], result["metrics"], result["states"]), data, errors=0, rel=1e-4)


def test_rounding_in_the_store_hardly_moves_what_a_network_measures(runs, data):
    for run in runs:
        assert_measured(run, data, errors=2e-3, rel=1e-2)


def test_published_weights_measure_what_training_recorded():
    for run in load_runs(chapter_specs(CHAPTERS["layers"], {}), Store()):
        table = rep.layer_collapse(run, run.spec.epochs, load(run.spec.data))
        last = table[table["layer"] == list(rep.STEPS[run.spec.model.name])[-1]]
        for _, row in last.iterrows():
            for name in ("nc1", "nc1_trace_ratio", "nc2_equiangularity"):
                assert row[name] == pytest.approx(run.metrics[f"{name}_{row['labels']}"][-1], rel=1e-2), (run.spec.key, name)


def test_the_last_layer_pooled_is_what_the_classifier_gets(runs, data):
    for run in runs:
        found = rep.activations(run, 1, data.x_train[:50])
        last = list(rep.STEPS[run.spec.model.name].values())[-1]
        torch.testing.assert_close(rep.pooled(found[last]), found["features"])
    assert rep.last_layers_differ(runs[0], 1, data.x_train[:50]) < 1e-5


def test_shapes(runs, data):
    found = rep.representation(runs[0], 1, data.x_train[:30])
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "L0": (30, 4), "L1": (30, 4), "L2": (30, 4), rep.WHOLE: (30, 160)
    }  # fmt: skip
    torch.testing.assert_close(found[rep.WHOLE].view(30, 40, 4).mean(1), found["L2"])


def test_an_epoch_that_was_not_kept_is_refused(runs):
    with pytest.raises(
        ValueError, match=r"^epoch=7 is not among those whose weights the run [0-9a-f]{20} keeps \(1\): choose one of them\.$"
    ):
        rep.network(runs[0], 7)


def test_probe_points_are_distinct_and_theirs_is_the_seed(data):
    chosen = rep.probe(data, 500, 0)
    assert len(set(chosen.tolist())) == 500 and chosen.max() < 4000
    assert chosen.equal(rep.probe(data, 500, 0)) and not chosen.equal(rep.probe(data, 500, 1))
    with pytest.raises(SpecError, match=r"^probe_points=4001 is outside 4\.\.4000: "):
        rep.probe(data, 4001, 0)


# Similarity


def test_cka_does_not_see_rotation_scale_and_shift_of_a_real_layer_and_does_see_others(resnets):
    layers = [one["L2"] for one in resnets[0]]
    assert rep.effect_on_cka(rep.moved, layers, draws=2) < 1e-12
    assert rep.effect_on_cka(rep.stretched, layers, draws=2) > 1e-3
    assert torch.dist(rep.moved(layers[0], 0), layers[0].double()) > 1


def test_rotations_are_orthogonal():
    q = rep.rotation(6, 0)
    torch.testing.assert_close(q @ q.T, torch.eye(6, dtype=torch.float64))
    assert not q.allclose(rep.rotation(6, 1))


def test_perfect_collapse_has_cka_one_in_any_orientation_and_dimension():
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    x, y = rep.collapsed(labels, 4, 0), rep.collapsed(labels, 11, 1)
    assert float(metrics.nc1_trace_ratio(x, labels)) < 1e-25
    assert float(metrics.nc2(x, labels).equiangularity) < 1e-12
    assert rep.collapsed_gap(labels, 4, 11) < 1e-12
    assert float(metrics.linear_cka(x, y[torch.randperm(7, generator=torch.Generator().manual_seed(0))])) < 0.9
    with pytest.raises(ValueError, match=r"^dim=3 is too small to place a simplex of 4 classes"):
        rep.collapsed(labels, 3, 0)


def test_cka_matrix_takes_each_pair_once():
    xs, _ = clouds()
    within = rep.cka_matrix(xs)
    assert np.isnan(within[np.tril_indices(3)]).all()
    assert within[0, 2] == float(metrics.linear_cka(xs[0], xs[2]))
    full = rep.cka_matrix(xs, xs, debiased=True)
    np.testing.assert_allclose(full, full.T)
    np.testing.assert_allclose(np.diag(full), 1)


@pytest.mark.parametrize("debiased", [False, True])
def test_cosines_of_gram_matrices_are_cka(debiased):
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(20, d, generator=generator) + 3 for d in (2, 7, 50)] + [torch.ones(20, 4)]
    expected = [[float(metrics.linear_cka(x, y, debiased)) for y in xs] for x in xs]
    assert np.isnan(expected[3]).all()
    np.testing.assert_allclose(rep.cka_among(xs, debiased), expected, rtol=0, atol=1e-10)


def test_pair_estimate_is_the_mean_over_pairs_with_a_jackknife_over_seeds():
    values = np.full((4, 4), np.nan)
    values[np.triu_indices(4, 1)] = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8]
    found = rep.pair_estimate(values)
    # without seed 0 remain .5 .7 .8, without 1 .2 .3 .8, without 2 .1 .3 .7, without 3 .1 .2 .5
    without = np.array([2.0, 1.3, 1.1, 0.8]) / 3
    half = 3.1824463053 * np.sqrt(3 / 4 * np.square(without - without.mean()).sum())
    assert found.n == 4
    np.testing.assert_allclose(found[:3], [2.6 / 6, 2.6 / 6 - half, 2.6 / 6 + half])


def test_jackknife_covers_where_students_interval_over_pairs_does_not():
    generator = np.random.default_rng(0)
    covered, naive, repeats = 0, 0, 400
    for _ in range(repeats):
        effects = generator.normal(size=6)
        values = np.where(np.triu(np.ones((6, 6)), 1) > 0, effects[:, None] + effects, np.nan)
        found, student = rep.pair_estimate(values), analysis.estimate(values[np.isfinite(values)])
        covered += found.low <= 0 <= found.high
        naive += student.low <= 0 <= student.high
    assert covered / repeats > 0.92 and naive / repeats < 0.85


@pytest.mark.parametrize(("size", "n"), [(0, 0), (1, 0), (2, 2)])
def test_pair_estimate_has_no_interval_where_a_seed_left_out_leaves_no_pair(size, n):
    values = np.full((size, size), np.nan)
    values[np.triu_indices(size, 1)] = 0.5
    found = rep.pair_estimate(values)
    assert found.n == n and np.isnan(found.low) and (found.mean == 0.5 if n else np.isnan(found.mean))


def test_pair_estimate_refuses_pairs_of_other_seeds():
    with pytest.raises(ValueError, match=r"shape \[2, 3\]"):
        rep.pair_estimate(np.ones((2, 3)))


def test_similarity_compares_the_named_layers(resnets):
    left, _ = resnets
    table = rep.similarity(left, left, [("L0", "L2"), ("L2", "L2")])
    row = table[(table["first"] == "L0") & (table["kind"] == "debiased")].iloc[0]
    assert row["values"] == tuple(float(metrics.linear_cka(a["L0"], b["L2"], True)) for a in left for b in left)
    assert row["mean"] == pytest.approx(np.mean(row["values"])) and row["n"] == 2
    within = rep.similarity(left, None, [("L2", "L2")])
    assert within["values"].map(len).tolist() == [1, 1] and within["low"].isna().all()
    assert rep.similarity_matrix(table.iloc[2:], "biased", ["L2"]) == table.iloc[2]["mean"]


def test_drift_is_measured_from_the_first_epoch_and_from_the_one_before():
    (a, b, c), _ = clouds()
    table = rep.drift({5: {"L0": b}, 1: {"L0": a}, 20: {"L0": c}}).set_index(["since", "epoch"])
    assert list(table.loc["first"].index) == [1, 5, 20] and list(table.loc["previous"].index) == [5, 20]
    assert table.loc[("first", 1), "biased"] == pytest.approx(1)
    assert table.loc[("first", 20), "debiased"] == pytest.approx(float(metrics.linear_cka(a, c, True)), abs=1e-10)
    assert table.loc[("previous", 20), "biased"] == pytest.approx(float(metrics.linear_cka(b, c)), abs=1e-10)
    means = rep.drift_means(rep.drifts({0: {1: {"L0": a}, 5: {"L0": b}}, 1: {1: {"L0": b}, 5: {"L0": c}}}))
    one = means[(means["epoch"] == 5) & (means["since"] == "first") & (means["kind"] == "biased")].iloc[0]
    assert one["metric"] == "L0" and one["n"] == 2
    assert one["mean"] == pytest.approx((metrics.linear_cka(a, b) + metrics.linear_cka(b, c)) / 2)


# Class means and residuals


def test_the_terms_of_cka_add_up_to_it(resnets):
    (x, y), labels = [one["L2"] for one in resnets[0]], resnets[1]
    terms = rep.cka_terms(x, y, labels)
    assert sum(terms) == pytest.approx(float(metrics.linear_cka(x, y)), rel=1e-9)
    means, residuals = rep.class_parts(x, labels)
    only = rep.cka_terms(means, rep.class_parts(y, labels).means, labels)
    assert only.residuals < 1e-20 and abs(only.mixed) < 1e-15
    assert (means.T @ residuals).abs().max() < 1e-9 * (x.double().T @ x.double()).abs().max()


def test_shrinking_residuals_ends_in_perfect_collapse_and_in_the_cka_of_means():
    xs, labels = clouds()
    assert rep.shrunk(xs[0], labels, 1.0).allclose(xs[0].double())
    half = metrics.nc1_trace_ratio(rep.shrunk(xs[0], labels, 0.5), labels)
    assert float(half) == pytest.approx(float(metrics.nc1_trace_ratio(xs[0], labels)) / 4)
    table = rep.shrinking(xs, {"noisy": labels}, [0.0, 1.0])
    parts = rep.part_similarity(xs, None, labels)
    assert table["mean"].tolist() == pytest.approx([parts["means"].mean, parts["all"].mean])


def test_part_similarity_tells_shared_means_from_shared_residuals():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    means, noise = torch.randn(5, 12, generator=generator)[labels], torch.randn(300, 12, generator=generator)
    other = torch.randn(300, 12, generator=generator)
    same_means = rep.part_similarity([means + noise], [rep.moved(means + other, 0)], labels)
    assert same_means["means"].mean > 0.9 and same_means["residuals"].mean < 0.1 and same_means["explained"].mean > 0.8
    assert same_means["means_excess"].mean == same_means["means"].mean - same_means["means_chance"].mean > 0.1
    same_residuals = rep.part_similarity([means + 3 * noise], [means[torch.randperm(300, generator=generator)] + 3 * noise], labels)
    assert same_residuals["residuals"].mean > 0.8 > 5 * same_residuals["residuals_chance"].mean
    for parts in (same_means, same_residuals):
        assert sum(parts[f"term_{name}"].mean for name in ("means", "residuals", "mixed")) == pytest.approx(parts["all"].mean)


# Collapse by layer


def test_layer_collapse_ends_in_the_run_s_own_metrics(runs, data):
    for run in runs:
        table = rep.layer_collapse(run, 1, data)
        last = list(rep.STEPS[run.spec.model.name])[-1]
        assert set(table["layer"]) == {rep.INPUT, *rep.STEPS[run.spec.model.name]}
        for labels in ("noisy", "clean"):
            row = table[(table["layer"] == last) & (table["labels"] == labels)].iloc[0]
            for name in ("nc1", "nc1_trace_ratio", "nc2_equiangularity"):
                assert row[name] == pytest.approx(run.metrics[f"{name}_{labels}"][-1], rel=1e-2)
            assert row["separation"] == pytest.approx(1 / (1 + row["nc1_trace_ratio"]))


def test_readout_is_least_squares_with_intercept():
    (x, _, _), labels = clouds()
    x = torch.cat([x, torch.zeros(len(x), 1)], 1)  # a dead channel must not matter
    design = np.column_stack([x, np.ones(len(x))])
    expected = np.linalg.lstsq(design, np.eye(4)[labels], rcond=None)[0][:-1].T
    np.testing.assert_allclose(rep.readout(x, labels), expected, atol=1e-6)


def layer_table(ratios, labels="noisy"):
    """One ResNet1D whose layers have these tr Σ_W / tr Σ_B, from the input on."""
    where = {"model": "resnet1d", "optimizer": "sgd", "width": 12, "seed": 0, "labels": labels}
    names = [rep.INPUT, "L0", "L1", "L2"]
    return pd.DataFrame({**where, "layer": n, "nc1_trace_ratio": r, "nc1": r**2, "separation": 1 / (1 + r)} for n, r in zip(names, ratios))


def test_shares_of_the_collapse_add_up_and_may_be_negative():
    shares = rep.collapse_shares(layer_table([9.0, 3.0, 4.0, 1.0])).set_index("layer")
    np.testing.assert_allclose(shares["log_nc1"], np.log([9 / 3, 3 / 4, 4]) / np.log(9))
    np.testing.assert_allclose(shares["log_nc1_standard"], shares["log_nc1"])  # the squares of the same ratios
    np.testing.assert_allclose(shares["separation"], [0.15 / 0.4, -0.05 / 0.4, 0.3 / 0.4])
    assert rep.collapse_shares(layer_table([1.0, 2.0, 3.0, 4.0]))[list(rep.SHARE_MEASURES)].isna().all(axis=None)


# Words


def test_words_follow_the_numbers():
    def parts(means, everything):
        one = {"all": everything, "means": means, "explained": (means - everything) / (1 - everything)}
        return {name: Estimate(value, np.nan, np.nan, 3) for name, value in one.items()}

    assert layer_pages.explained_text(parts(0.99, 0.6)).endswith("sparirebbe quasi tutta la distanza da 1 (97,5 %)")
    assert "più della metà" in layer_pages.explained_text(parts(0.9, 0.6))
    assert "meno della metà" in layer_pages.explained_text(parts(0.7, 0.6))
    assert "non sparirebbe quasi nulla" in layer_pages.explained_text(parts(0.61, 0.6))
    assert "non spiegano nulla" in layer_pages.explained_text(parts(0.5, 0.6))
    assert layer_pages.explained_text(parts(np.nan, np.nan)) == "la quota dei residui non è definita"
    assert layer_pages.order_text([0.9, 0.5, 0.2]) == "scende a ogni strato"
    assert layer_pages.order_text([0.1, 0.5, 0.5]) == "non scende in nessuno strato"
    assert layer_pages.order_text([0.9, 0.5, 0.7]) == "scende in qualche strato e in qualche altro no"
    assert layer_pages.order_text([0.9, np.nan, 0.7]) == "non è misurata in ogni strato"
    assert [layer_pages.power(v) for v in (0, 3.2e-16, 2.5e7)] == ["0", "3·10⁻¹⁶", "2·10⁷"]
    assert layer_pages.interval_text(Estimate(1.0, np.nan, np.nan, 2)) == "troppo pochi semi per un intervallo"
    assert layer_pages.pairs_text(2, [Estimate(0.5, np.nan, np.nan, 2)]) == "2 semi, nessun intervallo"
    assert layer_pages.pairs_text(3, [Estimate(0.5, 0.4, 0.6, 3)]).startswith("media sulle coppie di 3 semi; intervallo")


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([[9.0, 8.9, 8.8, 0.01]], "è così in tutte le reti"),
        ([[9.0, 3.0, 2.9, 0.01]], "è così in tutte le reti"),  # more than four fifths, less than nine tenths
        ([[9.0, 3.0, 2.0, 1.0]], "non è così in nessuna rete"),
        ([[9.0, 1.5, 1.4, 1e-4]], "non è così in nessuna rete"),  # more than four fifths of the logarithm, less of the separation
        ([[9.0, 8.9, 8.8, 0.01], [9.0, 3.0, 2.0, 1.0]], "è così in 1 rete su 2"),
        ([[9.0, 8.9, 8.8, 0.01], [1.0, 2.0, 3.0, 4.0]], "è così in 1 rete su 2"),
        ([[1.0, 2.0, 3.0, 4.0]], "nessuna rete collassa, e la domanda non si pone"),
    ],
)
def test_whether_the_last_layers_do_almost_everything_is_asked_as_in_the_ledger(ratios, words):
    shares = rep.collapse_shares(pd.concat([layer_table(one).assign(width=8 + i) for i, one in enumerate(ratios)]))
    texts = layer_pages.almost_only_texts(shares, claims.chosen(["R24"])[0].checks)
    assert texts == {"almost_layers": "L2, C3 e C4", "almost_least": "l’80 %", "almost_only": words}
    assert layer_pages.share_texts(shares)["separation_noisy_half"] in ("1 su 1", "0 su 1", "1 su 2", "0 su 0")


def test_drift_words_say_what_still_changes():
    (a, b, _), _ = clouds(dims=(6, 6, 6))
    course = {1: {"L0": a, "L1": a}, 2: {"L0": a, "L1": a}, 4: {"L0": a, "L1": b}}
    moving = layer_pages.drift_texts(rep.drifts({0: course, 1: course}), 2)
    assert moving["drift_still"] == (
        "con tutto l’intervallo supera 0,05 in L1: lì la rappresentazione si sta ancora riorganizzando; "
        "con tutto l’intervallo resta entro 0,05 in L0"
    )
    assert moving["drift_least"] == "L1"
    for undecided in ({0: course}, {0: course, 1: course | {4: {"L0": a, "L1": a}}}):  # one seed; two of which one layer moves in one
        said = layer_pages.drift_texts(rep.drifts(undecided), 2)["drift_still"]
        assert "supera" not in said and re.search(r"non è decisa in .*L1, dove l’intervallo attraversa 0,05 o manca$", said)
    still = layer_pages.drift_texts(rep.drifts({seed: {1: {"L0": a}, 4: {"L0": rep.moved(a, 0)}} for seed in (0, 1)}), 1)
    assert still["drift_still"] == "con tutto l’intervallo resta entro 0,05 in L0" and still["drift_changes"] == "L0: 0,00 [0,00; 0,00]"
    bent = {seed: {1: {"L0": a}, 2: {"L0": a}, 4: {"L0": end}} for seed, end in ((0, a), (1, b))}  # one network changes, the other does not
    half = (rep.cka_matrix([a], [b], debiased=True).item() - 1) / 2
    assert layer_pages.drift_texts(rep.drifts(bent), 2)["drift_changes"].startswith(
        f"L0: {half:.2f} [".translate(str.maketrans("-.", "−,"))
    )
    alone = layer_pages.drift_texts(rep.drifts({0: {1: {"L0": a}}}), 1)
    assert "una sola fotografia" in alone["drift_still"] and alone["drift_before_last"] == "n.d."


def test_a_small_network_no_more_collapsed_than_the_large_one_is_said():
    ratios = pd.DataFrame(
        {"width": w, "seed": s, "layer": "L2", "noisy": w / 10 + s / 100, "clean": 1.0} for w in (8, 64) for s in (0, 1, 2)
    )
    texts = layer_pages.ratio_texts(ratios, 8, 64)
    assert texts["ratio_noisy"].startswith("−5,60") and texts["ratio_clean"].startswith("0,00")


def test_exp4_specs_follow_only_their_own_seeds():
    assert len(exp4_specs(2, 4, 3, 3, 4, [0], [0, 1], 0.2, 0)) == 6
    with pytest.raises(SpecError, match=r"^drift_seeds=\[\] is empty"):
        exp4_specs(2, 4, 3, 3, 4, [], [0, 1], 0.2, 0)


def test_report_configurations_are_the_networks_that_the_report_trained():
    assert analysis.report_configurations("exp4")["width"].tolist() == [8, 64, 32]
    assert len(analysis.report_configurations("exp1")) == 44 and analysis.report_configurations("layers").empty
    assert analysis.report_drift().set_index(["metric", "epoch"])["value"]["L2", 500] == 0.18


def test_float64_weights_make_a_float64_network(runs, data):
    run = runs[0]
    double = Run(run.spec, run.provenance, run.epochs, run.metrics, {1: {n: v.astype(np.float64) for n, v in run.states[1].items()}})
    assert isinstance(rep.network(double, 1), models.Stack)
    assert rep.activations(double, 1, data.x_train[:5])["logits"].dtype == torch.float64
