"""Words of the chapter on widths, Experiment 1: double descent, collapse and its correlation with the error, SGD against Adam."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from ncbook import analysis
from ncbook.analysis import Estimate
from ncbook.pages import MISSING, curve_name, differences_text, listing, number, tally, with_interval
from ncbook.plots import name
from ncbook.spec import OPTIMIZERS, SIGNAL_MODELS


def _row(table: pd.DataFrame, **where) -> Mapping | None:
    """The only row of the table with these values; None if there is none."""
    for column, value in where.items():
        table = table[table[column] == value]
    return None if table.empty else table.iloc[0].to_dict()


def _estimate(row: Mapping | None, prefix: str = "") -> Estimate:
    if row is None:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(*(row[prefix + field] for field in Estimate._fields))


def hidden_points(points: pd.DataFrame, peak: Mapping) -> pd.DataFrame:
    """The points that the report's figure hides between the minima on either side of a curve's peak, and that may stand above it.

    points: of one metric, from `analysis.report_points`; peak: a row of their `analysis.peaks`.
    """
    curve = points[(points["model"] == peak["model"]) & (points["optimizer"] == peak["optimizer"])]
    return curve[curve["value"].isna() & curve["width"].between(peak["before_width"], peak["after_width"])]


def peak_texts(last: pd.DataFrame, points: pd.DataFrame) -> dict[str, str]:
    """The double descent of every curve, ours and the report's: `<model>_<optimizer>_<what>` for a table, and sentences that sum up."""
    widest = last["width"].max()
    ours = analysis.peaks(last)
    errors = points[points["metric"] == "test_error"]
    theirs = analysis.peaks(errors.rename(columns={"value": "test_error"}).assign(seed=0))
    means = analysis.seed_means(last, ["test_error", "train_error"])
    present = {(model, optimizer) for model, optimizer in zip(last["model"], last["optimizer"])}
    texts, second, trained = {"widest": f"W = {widest}"}, [], []
    for model in SIGNAL_MODELS:
        for optimizer in OPTIMIZERS:
            here, key = {"model": model, "optimizer": optimizer}, f"{model}_{optimizer}"
            peak, report = _row(ours, **here), _row(theirs, **here)
            none = "nessuno" if (model, optimizer) in present else MISSING
            texts[f"{key}_peak"] = f"{peak['width']} ({number(peak['parameters'], 0)})" if peak else none
            texts[f"{key}_seed_peaks"] = listing(sorted(set(peak["seed_widths"]))) if peak else none
            hidden = listing(hidden_points(errors, report)["width"]) if report else ""
            unread = f"; punto a W = {hidden} non leggibile" if hidden else ""
            texts[f"{key}_report_peak"] = f"{report['width']} ({number(report['parameters'], 0)}{unread})" if report else "nessuno"
            texts[f"{key}_peak_error"] = with_interval(_estimate(peak)) if peak else MISSING
            texts[f"{key}_report_peak_error"] = number(report["mean"]) if report else MISSING
            texts[f"{key}_rise"] = with_interval(_estimate(peak, "rise_"), sign=True) if peak else MISSING
            texts[f"{key}_fall"] = with_interval(_estimate(peak, "fall_"), sign=True) if peak else MISSING
            if peak:
                at_peak = _estimate(_row(means, **here, width=peak["width"], metric="train_error"))
                trained.append(f"{curve_name(model, optimizer)}: {with_interval(at_peak)}")
            texts[f"{key}_widest_error"] = with_interval(_estimate(_row(means, **here, width=widest, metric="test_error")))
            if peak:
                second.append((curve_name(model, optimizer), _estimate(peak, "beyond_")))
    rises = [_estimate(row, "rise_") for row in ours.to_dict("records")]
    texts["peak_count"] = f"{len(ours)} su {len(present)}"
    texts["rise_tally"] = tally(rises)
    texts["train_at_peak"] = "; ".join(trained) or "nessuna curva ha un picco interno"
    texts["beyond_minimum"] = differences_text(second) if second else "nessuna curva ha un picco interno da cui scendere"
    return texts


def difference_texts(last: pd.DataFrame, metrics: Sequence[str]) -> dict[str, str]:
    """SGD minus Adam at the greatest width, `<model>_<metric>_difference`, and the tally of the collapse metrics."""
    table = analysis.paired_differences(last[last["width"] == last["width"].max()], metrics)
    texts = {}
    for model in SIGNAL_MODELS:
        for metric in metrics:
            value = _estimate(_row(table, model=model, metric=metric))
            texts[f"{model}_{metric}_difference"] = with_interval(value, sign=True)
    errors = [(name(model), _estimate(_row(table, model=model, metric="test_error"))) for model in SIGNAL_MODELS]
    return texts | {"error_differences": differences_text(errors)}


def collapse_texts(last: pd.DataFrame, metrics: Mapping[str, str]) -> dict[str, str]:
    """How the collapse metrics go with the test error over the widths; metrics: column -> name on the page.

    `<metric>_same_peak` says at how many of the curves whose test error has an interior peak the metric has its own at the same width;
    the others sum up the correlations.
    """
    errors = analysis.peaks(last)
    texts = {}
    for metric in metrics:
        shared = errors.merge(analysis.peaks(last, metric), on=["model", "optimizer", "width"])
        texts[f"{metric}_same_peak"] = f"{len(shared)} su {len(errors)}"
    table = analysis.correlations(last, list(metrics))
    for kind in ("pearson", "spearman"):
        defined = table[(table["kind"] == kind) & table["r"].notna()]
        if defined.empty:
            texts[f"{kind}_range"] = "non definiti (servono almeno tre larghezze)"
            continue
        ends = [defined.loc[defined["r"].idxmin()], defined.loc[defined["r"].idxmax()]]
        texts[f"{kind}_range"] = "da " + " a ".join(
            f"{number(end['r'], 2)} ({metrics[end['metric']]}, {curve_name(end['model'], end['optimizer'])})" for end in ends
        )
    bounded = table[(table["kind"] == "pearson") & table["low"].notna()]
    texts["correlations_around_zero"] = f"{int(((bounded['low'] <= 0) & (bounded['high'] >= 0)).sum())} su {len(bounded)}"
    texts["correlation_widths"] = listing(sorted(set(table["n"])))
    return texts


def report_texts(means: pd.DataFrame, points: pd.DataFrame) -> dict[str, str]:
    """How far the seed means of the test error lie from the report's points: over each curve's widths, and counted over all."""
    table = analysis.beside_report(means[means["metric"] == "test_error"], points).dropna(subset="difference")
    texts = {"below_report": f"{int((table['difference'] < 0).sum())} su {len(table)}"}
    for model in SIGNAL_MODELS:
        for optimizer in OPTIMIZERS:
            curve = table[(table["model"] == model) & (table["optimizer"] == optimizer)]["difference"]
            texts[f"{model}_{optimizer}_from_report"] = number(curve.abs().median())
            texts[f"{model}_{optimizer}_mean_from_report"] = number(curve.mean(), sign=True)
    return texts
