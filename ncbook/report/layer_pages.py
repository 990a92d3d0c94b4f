"""The words and tables of the chapters on layers: from the estimates of `representations` to text for `pages.glue_texts`."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ncbook import analysis
from ncbook.analysis import CURVE, Estimate, seed_means
from ncbook.claims import Check
from ncbook.pages import MISSING, ONE_SEED, curve_name, listing, number, percent, sign_text, with_article, with_interval
from ncbook.representations import SHARE_MEASURES, STEPS, drift_means
from ncbook.spec import OPTIMIZERS, SIGNAL_MODELS

SHARE_NAMES = dict(zip(SHARE_MEASURES, ("log NC1, tracce", "log NC1", "separazione")))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float) -> str:
    """A small number to one digit: `2·10⁻¹⁶`; `0` for none."""
    if value == 0:
        return "0"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")


def pairs_text(seeds: int, estimates: Iterable[Estimate]) -> str:
    """What means over pairs of seeds rest on, and whether they have intervals."""
    if not any(math.isfinite(value.low) for value in estimates):
        return f"{seeds} {'seme' if seeds == 1 else 'semi'}, nessun intervallo"
    return f"media sulle coppie di {seeds} semi; intervallo al 95 %, jackknife sui semi"


def interval_text(value: Estimate) -> str:
    """`sign_text` of a difference, also where seeds are there but no interval is."""
    if value.n and not math.isfinite(value.low):
        return ONE_SEED if value.n == 1 else "troppo pochi semi per un intervallo"
    return sign_text(value)


def order_text(values: Sequence[float]) -> str:
    """How a sequence of means goes from layer to layer."""
    steps = [b - a for a, b in zip(values, values[1:])]
    if not all(math.isfinite(step) for step in steps):
        return "non è misurata in ogni strato"
    if all(step < 0 for step in steps):
        return "scende a ogni strato"
    if all(step >= 0 for step in steps):
        return "non scende in nessuno strato"
    return "scende in qualche strato e in qualche altro no"


def _means(table: pd.DataFrame, **where) -> dict[str, Estimate]:
    """The estimates of the rows with these values, by their layer (first = second)."""
    for column, value in where.items():
        table = table[table[column] == value]
    return {
        row["first"]: Estimate(*(row[f] for f in Estimate._fields)) for row in table.to_dict("records") if row["first"] == row["second"]
    }


def _at(table: pd.DataFrame, key: tuple | str) -> Estimate:
    """The estimate in the row of an indexed table."""
    return Estimate(*table.loc[key, list(Estimate._fields)])


def similarity_rows(table: pd.DataFrame, report: Mapping[str, float]) -> list[list[str]]:
    """A row for each layer compared with itself: layer, biased CKA, debiased CKA, the report's value."""
    biased, debiased = (_means(table, kind=kind) for kind in ("biased", "debiased"))
    return [
        [layer, with_interval(biased[layer]), with_interval(debiased[layer]), number(report[layer], 2) if layer in report else "–"]
        for layer in biased
    ]


def beside_report(table: pd.DataFrame, report: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """A table of `similarity` with the report's value of the same layers, (first, second), in a column; the report has biased CKA only."""
    theirs = [report.get((row.first, row.second)) if row.kind == "biased" else None for row in table.itertuples()]
    return table.assign(report=pd.Series(theirs, index=table.index, dtype=float))


def similarity_texts(name: str, table: pd.DataFrame, seeds: int) -> dict[str, str]:
    """How CKA goes from layer to layer (`<name>_order`, `<name>_debiased_order`), what it rests on (`<name>_pairs`), and `<name>_L2`."""
    biased, debiased = (_means(table, kind=kind) for kind in ("biased", "debiased"))
    layers = list(STEPS["resnet1d"])
    texts = {f"{name}_L2": with_interval(biased["L2"], 2)}
    texts[f"{name}_order"] = order_text([biased[layer].mean for layer in layers])
    texts[f"{name}_debiased_order"] = order_text([debiased[layer].mean for layer in layers])
    return texts | {f"{name}_pairs": pairs_text(seeds, biased.values())}


def explained_text(parts: Mapping[str, Estimate]) -> str:
    """What becomes of the distance from 1 if the residuals are taken away; parts: from `part_similarity`."""
    share = parts["explained"].mean
    if not math.isfinite(share):
        return "la quota dei residui non è definita"
    if share < 0:
        return f"senza i residui la CKA scenderebbe a {number(parts['means'].mean, 2)}: i residui non spiegano nulla della distanza da 1"
    if share >= 0.9:
        verdict = "sparirebbe quasi tutta la"
    elif share > 0.5:
        verdict = "sparirebbe più della metà della"
    else:
        verdict = "sparirebbe meno della metà della" if share >= 0.1 else "non sparirebbe quasi nulla della"
    means = f"da {number(parts['all'].mean, 2)} a {number(parts['means'].mean, 2)}"
    return f"senza i residui la CKA passerebbe {means}, cioè {verdict} distanza da 1 ({percent(round(share, 3))})"


def part_rows(columns: Sequence[Mapping[str, Estimate]]) -> list[list[str]]:
    """A row for each quantity of `part_similarity`, a column for each of several comparisons."""
    names = {
        "all": "CKA",
        "means": "CKA delle sole medie",
        "means_chance": "lo stesso, classi scambiate",
        "residuals": "CKA dei soli residui",
        "residuals_chance": "lo stesso, punti scambiati",
        "term_means": "parte della CKA: medie",
        "term_residuals": "parte della CKA: residui",
        "term_mixed": "parte della CKA: mista",
        "explained": "quota di 1 − CKA tolta con i residui",
    }
    return [[words, *(with_interval(column[name], 2) for column in columns)] for name, words in names.items()]


def ratio_rows(ratios: pd.DataFrame, widths: Sequence[int]) -> list[list[str]]:
    """tr Σ_W / tr Σ_B: a row for each layer and labelling, a column for each width; ratios: from `trace_ratios`."""
    means = seed_means(ratios, ["noisy", "clean"], by=["width", "layer"]).set_index(["width", "layer", "metric"])
    return [
        [f"{layer}, etichette {words}", *(with_interval(_at(means, (width, layer, labels)), 2) for width in widths)]
        for labels, words in (("noisy", "rumorose"), ("clean", "pulite"))
        for layer in STEPS["resnet1d"]
    ]


def ratio_texts(ratios: pd.DataFrame, small: int, large: int) -> dict[str, str]:
    """tr Σ_W / tr Σ_B of L2, small minus large in pairs of one seed, and the sign of the difference: `ratio_noisy`, `ratio_clean`."""
    table = analysis.paired_differences(ratios, ["noisy", "clean"], column="width", of=small, minus=large, by=["layer"])
    differences = {labels: _at(table.set_index(["layer", "metric"]), ("L2", labels)) for labels in ("noisy", "clean")}
    return {f"ratio_{labels}": f"{with_interval(value, 2, sign=True)}, {interval_text(value)}" for labels, value in differences.items()}


def drift_rows(means: pd.DataFrame, epochs: int, report: Mapping[str, float]) -> list[list[str]]:
    """A row for each layer: debiased and biased CKA with the first epoch after `epochs` and at the end, and the last step.

    means: from `drift_means`; report: layer -> its value at the end of its runs.
    """
    last = means["epoch"].max()
    rows = []
    for layer in dict.fromkeys(means["metric"]):
        mine = means[means["metric"] == layer].set_index(["kind", "since", "epoch"])
        cells = [("biased", "first", epochs), ("biased", "first", last), ("debiased", "first", last), ("debiased", "previous", last)]
        values = [with_interval(_at(mine, cell), 2) if cell in mine.index else MISSING for cell in cells]
        rows.append([layer, *values, number(report[layer]) if layer in report else "–"])
    return rows


def drift_texts(drifts: pd.DataFrame, epochs: int) -> dict[str, str]:
    """Which layers still change: the change of the CKA with the first epoch from `epochs` to the end, and the last step's distance from 1.

    drifts: from `representations.drifts`, of the networks followed to the end; the change is taken network by network.
    """
    ends, means = sorted(set(drifts["epoch"])), drift_means(drifts)
    last = means[(means["kind"] == "debiased") & (means["epoch"] == ends[-1])].set_index(["since", "metric"])
    step = last.loc[["previous"]].droplevel("since") if "previous" in last.index else last[:0]
    at_end = last.loc["first", "mean"].to_dict()
    from_first = drifts[drifts["since"] == "first"]
    changes = analysis.paired_differences(from_first, ["debiased"], column="epoch", of=ends[-1], minus=epochs, by=["layer"]).set_index(
        "layer"
    )
    return {
        "drift_first": number(ends[0], 0),
        "drift_last": number(ends[-1], 0),
        "drift_before_last": number(ends[-2], 0) if len(ends) > 1 else MISSING,
        "drift_least": min(at_end, key=at_end.get) if all(map(math.isfinite, at_end.values())) else MISSING,
        "drift_changes": "; ".join(f"{layer}: {with_interval(_at(changes, layer), 2, sign=True)}" for layer in changes.index) or MISSING,
        "drift_still": _still_text({layer: _at(step, layer) for layer in step.index}),
    }


def _still_text(step: Mapping[str, Estimate]) -> str:
    """Of which layers the whole interval of the last step's CKA is more than 0.05 from 1; step: layer -> that CKA."""
    moving = [layer for layer, value in step.items() if value.high < 0.95]
    at_rest = [layer for layer, value in step.items() if value.low >= 0.95]
    said = {
        "con tutto l’intervallo supera 0,05 in {}: lì la rappresentazione si sta ancora riorganizzando": moving,
        "con tutto l’intervallo resta entro 0,05 in {}": at_rest,
        "non è decisa in {}, dove l’intervallo attraversa 0,05 o manca": [layer for layer in step if layer not in moving + at_rest],
    }
    texts = [words.format(listing(layers)) for words, layers in said.items() if layers]
    return "; ".join(texts) or "non si può misurare con una sola fotografia"


def step_rows(shares: pd.DataFrame, model: str, width: int) -> list[list[str]]:
    """A row for each measure and layer of `model` at `width`: the layer's share of the collapse, by optimiser (noisy labels)."""
    mine = shares[(shares["model"] == model) & (shares["width"] == width) & (shares["labels"] == "noisy")]
    means = seed_means(mine, SHARE_MEASURES, by=["optimizer", "layer"]).set_index(["layer", "optimizer", "metric"])

    def cell(*key: str) -> str:
        return with_interval(_at(means, key), 2) if key in means.index else MISSING

    return [
        [words, layer, *(cell(layer, optimizer, measure) for optimizer in OPTIMIZERS)]
        for measure, words in SHARE_NAMES.items()
        for layer in STEPS[model]
    ]


def last_layer(shares: pd.DataFrame) -> pd.DataFrame:
    """The rows of `collapse_shares` that belong to each model's last layer."""
    return shares[shares["layer"] == shares["model"].map({model: list(steps)[-1] for model, steps in STEPS.items()})]


def share_texts(shares: pd.DataFrame) -> dict[str, str]:
    """In how many networks the last layer makes more than half of the collapse, by measure and labels, and between which ends it lies."""
    texts = {}
    for labels in ("noisy", "clean"):
        mine = last_layer(shares[shares["labels"] == labels])
        for measure in SHARE_MEASURES:
            means = mine.groupby([*CURVE, "width"])[measure].mean().dropna()
            texts[f"{measure}_{labels}_half"] = f"{int((means > 0.5).sum())} su {len(means)}"
            if means.empty:
                texts[f"{measure}_{labels}_range"] = MISSING
                continue
            ends = [(means.idxmin(), means.min()), (means.idxmax(), means.max())]
            texts[f"{measure}_{labels}_range"] = "da " + " a ".join(
                f"{number(value, 2)} ({curve_name(model, optimizer)}, W = {width})" for (model, optimizer, width), value in ends
            )
    return texts


def almost_only_texts(shares: pd.DataFrame, checks: Sequence[Check]) -> dict[str, str]:
    """Whether the last layers make almost all of the collapse, by the ledger's checks of the measure `collapse_share`.

    `almost_layers` and `almost_least`: which layers the checks name, and more than which share of the collapse they ask for; `almost_only`:
    in how many networks the means over seeds meet all checks.
    """
    network, margins = [*CURVE, "width"], []
    for check in checks:
        mine = shares[shares["layer"].isin(check.arguments["layers"]) & shares["labels"].isin(check.arguments["labels"])]
        added = mine.groupby([*network, "labels", "seed"])[check.arguments["share"]].sum(min_count=1)
        margins.append(added.groupby([*network, "labels"]).mean().unstack("labels") - check.criterion.low)
    found = pd.concat(margins, axis=1)
    count = int((found > 0).all(axis=1).sum())
    if found.isna().all(axis=None):
        said = "nessuna rete collassa, e la domanda non si pone"
    elif count == len(found):
        said = "è così in tutte le reti"
    else:
        said = f"è così in {count} {'rete' if count == 1 else 'reti'} su {len(found)}" if count else "non è così in nessuna rete"
    return {
        "almost_layers": listing(dict.fromkeys(layer for check in checks for layer in check.arguments["layers"])),
        "almost_least": listing(dict.fromkeys(with_article(percent(check.criterion.low)) for check in checks)),
        "almost_only": said,
    }


def readout_texts(layers: pd.DataFrame, last: pd.DataFrame) -> dict[str, str]:
    """NC3 of the last layer, with the read-out and the classifier, at the greatest width: `<model>_<optimizer>_readout`, `_classifier`.

    layers: from `layer_collapse`; last: `analysis.last_epoch` of the same runs.
    """
    widest, texts = last["width"].max(), {}
    final = last_layer(layers[layers["labels"] == "noisy"])
    for model in SIGNAL_MODELS:
        for optimizer in OPTIMIZERS:
            for name, table, metric in (("readout", final, "nc3"), ("classifier", last, "nc3_noisy")):
                mine = table[(table["model"] == model) & (table["optimizer"] == optimizer) & (table["width"] == widest)]
                texts[f"{model}_{optimizer}_{name}"] = with_interval(analysis.estimate(mine[metric]), 2)
    return texts
