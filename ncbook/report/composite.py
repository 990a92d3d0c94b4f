"""The report's figure of eleven panels, drawn again from the runs beside the report's own values.

Its panels keep the report's order, row by row, but stand two abreast, so that they can be read on a telephone.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ncbook import analysis
from ncbook.analysis import Estimate
from ncbook.evidence import Evidence
from ncbook.pages import listing, number, seeds_text
from ncbook.plots import NAMES, STYLE, Panel, comma_tick, line, log_floor, rows_with, y_axis
from ncbook.provenance import drawn
from ncbook.report.layer_plots import heatmap
from ncbook.representations import drift_means, drifts, similarity, similarity_matrix
from ncbook.store import Run

LAYERS = ("L0", "L1", "L2")
"""The layers compared; the report's L3 is L2 again."""
_COLORS = {
    ("resnet1d", "sgd"): "#0072B2",
    ("resnet1d", "adam"): "#D55E00",
    ("cnn1d", "sgd"): "#56B4E9",
    ("cnn1d", "adam"): "#CC79A7",
}
_WIDTH_COLORS = {12: "#E69F00", 16: "#CC79A7", 64: "#0072B2"}
_LAYER_COLORS = dict(zip(LAYERS, ("#0072B2", "#009E73", "#D55E00")))
_OVER_PARAMETERS = {
    "errore di test": "test_error",
    "NC1": "nc1_trace_ratio_noisy",
    "NC2": "nc2_gram_noisy",
    "NC3": "nc3_uncentred_noisy",
    "NC4": "nc4_noisy",
}


@functools.cache
def cross_width(evidence: Evidence) -> np.ndarray:
    """Mean CKA over all pairs of seeds of the smallest network's layers with the largest one's, `[small, large]`."""
    widths = sorted({run.spec.model.width for run in evidence.runs})
    small, large = ([evidence.seen(run, evidence.epoch) for run in evidence.of_width(width)] for width in (widths[0], widths[-1]))
    return similarity_matrix(similarity(small, large, itertools.product(LAYERS, LAYERS)), "biased", LAYERS)


@functools.cache
def drift(evidence: Evidence) -> pd.DataFrame:
    """CKA of the networks that the report follows with their first kept epoch. Columns: metric (the layer), epoch, mean, low, high, n."""
    followed = evidence.of_width(analysis.report_cka()["drift"]["width"])

    def layers(run: Run, epoch: int) -> dict[str, Tensor]:
        return {layer: evidence.seen(run, epoch)[layer] for layer in LAYERS}

    means = drift_means(drifts({run.spec.seed: {epoch: layers(run, epoch) for epoch in run.states} for run in followed}))
    return means[(means["since"] == "first") & (means["kind"] == "biased")].drop(columns=["since", "kind"])


@functools.cache
def cross_seed(evidence: Evidence) -> pd.DataFrame:
    """CKA between seeds of the networks that the report compares. Columns: metric (the layer), mean, low, high, n."""
    compared = evidence.of_width(analysis.report_cka()["cross_seed"]["width"])
    table = similarity([evidence.seen(run, evidence.epoch) for run in compared], None, [(layer, layer) for layer in LAYERS])
    return table[table["kind"] == "biased"].rename(columns={"first": "metric"})[["metric", *Estimate._fields]]


def figure(evidence: Mapping[str, Evidence], report: str) -> Figure:
    """The eleven panels; evidence: "exp1" ... "exp4" -> its runs, panels of a missing one stay empty. `report`: its name in the legend.

    Lines and filled markers are means over seeds, bands and bars their 95 % intervals where there are several; hollow markers, and the
    numbers in brackets, are the report's.
    """
    with mpl.rc_context(STYLE | {"lines.markersize": 4, "lines.linewidth": 1.5}):
        eleven = Figure(figsize=(6.0, 16.0), layout="constrained")
        axes = list(eleven.subplots(6, 2).flat)
        draw: Sequence[tuple[str, str, Callable[[Axes, Evidence], None]]] = [
            *((title, "exp1", _over_parameters(title, metric)) for title, metric in _OVER_PARAMETERS.items()),
            ("errore di test", "exp2", _over_epochs),
            ("NC1", "exp3", _over_dims("nc1")),
            ("NC2", "exp3", _over_dims("nc2")),
            ("CKA A: larghezze", "exp4", _heatmap),
            ("CKA B: epoche", "exp4", _drift_curves),
            ("CKA C: semi", "exp4", _bars),
        ]
        for place, (ax, (title, experiment, panel)) in enumerate(zip(axes, draw), 1):
            ax.set_title(f"{place}. {title}", loc="left", fontweight="bold")
            if experiment in evidence and evidence[experiment].runs:
                panel(ax, evidence[experiment])
            else:
                ax.set_axis_off()
        _legend(axes[-1], report)
    return eleven


def shown(evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """What `figure` shows, as one table: the panel's number, whose the value is (source: ncbook or report), what it belongs to, and mean.

    Where there are several seeds also low and high, the ends of the mean's 95 % interval, and n.
    """
    parts: list[tuple[int, pd.DataFrame]] = []
    present = {name: those for name, those in evidence.items() if those.runs}
    if exp1 := present.get("exp1"):
        means, points = analysis.seed_means(exp1.last, list(_OVER_PARAMETERS.values())), analysis.report_points("exp1")
        parts += [(panel, drawn(means, [Panel("", {metric: ""})], points)) for panel, metric in enumerate(_OVER_PARAMETERS.values(), 1)]
    if exp2 := present.get("exp2"):
        means = analysis.seed_means(exp2.table, ["test_error"], by=["width", "epoch"])
        parts.append((6, drawn(means, [Panel("", {"test_error": ""})], analysis.report_points("exp2"), hue="width")))
    if exp3 := present.get("exp3"):
        metrics_shown = [analysis.REPORT_METRICS[name] for name in ("nc1", "nc2")]
        means, points = analysis.seed_means(exp3.last, metrics_shown, by=["feature_dim"]), analysis.report_points("exp3")
        parts += [(panel, drawn(means, [Panel("", {metric: ""})], points)) for panel, metric in enumerate(metrics_shown, 7)]
    if exp4 := present.get("exp4"):
        report, layers = analysis.report_cka(), [Panel("", {layer: "" for layer in LAYERS})]
        parts += [(9, _matrix(cross_width(exp4), "ncbook")), (9, _matrix(np.array(report["cross_width"]["cka"]), "report"))]
        parts.append((10, drawn(drift(exp4), layers, analysis.report_drift())))
        points = pd.DataFrame([{"metric": layer, "value": report["cross_seed"]["mean"][layer]} for layer in LAYERS])
        parts.append((11, drawn(cross_seed(exp4), layers, points)))
    return pd.concat([table.assign(panel=panel) for panel, table in parts], ignore_index=True).set_index("panel").reset_index()


def _matrix(values: np.ndarray, source: str) -> pd.DataFrame:
    """A matrix of CKA between `LAYERS`, small network by large one, as rows."""
    rows = [(source, a, b, values[i, j]) for i, a in enumerate(LAYERS) for j, b in enumerate(LAYERS)]
    return pd.DataFrame(rows, columns=["source", "metric", "large", "mean"])


def _finish(ax: Axes, x_label: str, *, log_x: bool = False, floor: float | None = None) -> None:
    if log_x:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(comma_tick))
    y_axis(ax, floor is not None, floor)
    ax.set_xlabel(x_label)


def _hollow(ax: Axes, x, y, color: str) -> None:
    ax.plot(x, y, "o", mfc="none", mec=color, ms=6)


def _over_parameters(title: str, metric: str) -> Callable[[Axes, Evidence], None]:
    def panel(ax: Axes, evidence: Evidence) -> None:
        means, points = analysis.seed_means(evidence.last, [metric]), analysis.report_points("exp1")
        points = points[points["metric"] == metric]
        floor = log_floor(means["mean"], points["value"]) if title in ("errore di test", "NC1") else None
        for (model, optimizer), color in _COLORS.items():
            ours, theirs = (table[rows_with(table, {"model": model, "optimizer": optimizer})] for table in (means, points))
            line(ax, ours, "parameters", floor, color=color, marker="o")
            _hollow(ax, theirs["parameters"], theirs["value"], color)
        _finish(ax, "parametri", log_x=True, floor=floor)

    return panel


def _over_epochs(ax: Axes, evidence: Evidence) -> None:
    means, points = analysis.seed_means(evidence.table, ["test_error"], by=["width", "epoch"]), analysis.report_points("exp2")
    floor = log_floor(means["mean"], points["value"])
    for width, curve in means.groupby("width"):
        color = _WIDTH_COLORS.get(width, "0.4")
        line(ax, curve, "epoch", floor, color=color)
        theirs = points[points["width"] == width]
        _hollow(ax, theirs["epoch"], theirs["value"], color)
    _finish(ax, "epoca", log_x=True, floor=floor)


def _over_dims(name: str) -> Callable[[Axes, Evidence], None]:
    def panel(ax: Axes, evidence: Evidence) -> None:
        metric, points = analysis.REPORT_METRICS[name], analysis.report_points("exp3")
        points = points[points["metric"] == metric]
        means = analysis.seed_means(evidence.last, [metric], by=["feature_dim"])
        floor = log_floor(means["mean"], points["value"]) if name == "nc1" else None
        line(ax, means, "feature_dim", floor, color=_COLORS["resnet1d", "sgd"], marker="o")
        _hollow(ax, points["feature_dim"], points["value"], _COLORS["resnet1d", "sgd"])
        ax.axvline(evidence.data.classes - 1, color="0.4", ls=(0, (4, 2)), lw=1)
        _finish(ax, "dimensione $d$", floor=floor)

    return panel


def _heatmap(ax: Axes, evidence: Evidence) -> None:
    ours, theirs = cross_width(evidence), np.array(analysis.report_cka()["cross_width"]["cka"])[:3, :3]
    heatmap(ax, ours, LAYERS, "rete stretta", "rete larga", theirs)


def _drift_curves(ax: Axes, evidence: Evidence) -> None:
    means, points = drift(evidence), analysis.report_drift()
    for layer, color in _LAYER_COLORS.items():
        ours = means[means["metric"] == layer]
        line(ax, ours, "epoch", None, color=color, marker="o")
        theirs = points[points["metric"] == layer]
        _hollow(ax, theirs["epoch"], theirs["value"], color)
    ax.set_ylim(0, 1.05)
    _finish(ax, "epoca", log_x=True)


def _bars(ax: Axes, evidence: Evidence) -> None:
    theirs = analysis.report_cka()["cross_seed"]["mean"]
    for place, ours in enumerate(cross_seed(evidence).to_dict("records")):
        ax.bar(place, ours["mean"], color=_LAYER_COLORS[ours["metric"]], alpha=0.75, width=0.6)
        ax.plot([place, place], [ours["low"], ours["high"]], color="0.2")
        _hollow(ax, place, theirs[ours["metric"]], "black")
    ax.set_xticks(range(len(LAYERS)), LAYERS)
    ax.set_ylim(0, 1.05)
    ax.yaxis.set_major_formatter(FuncFormatter(comma_tick))
    ax.set_axisbelow(True)
    ax.set_xlabel("strato")


def _legend(ax: Axes, report: str) -> None:
    ax.set_axis_off()
    handles = [Line2D([], [], color=color, marker="o", label=f"{NAMES[m]}, {NAMES[o]}") for (m, o), color in _COLORS.items()]
    handles += [Line2D([], [], color=color, label=f"riq. 6: $W$ = {width}") for width, color in _WIDTH_COLORS.items()]
    handles += [Line2D([], [], color=color, marker="o", label=f"riq. 10, 11: {layer}") for layer, color in _LAYER_COLORS.items()]
    handles.append(Line2D([], [], color="0.3", marker="o", mfc="white", ls="", label=report))
    ax.legend(handles=handles, loc="center", handlelength=1.8)


def scale_texts(evidence: Mapping[str, Evidence]) -> dict[str, str]:
    """`composite_scale`, how many networks of each experiment for how many epochs; `composite_seeds`, over how many seeds."""
    parts, seeds = [], []
    for experiment, those in evidence.items():
        epochs = sorted({run.spec.epochs for run in those.runs})
        seeds.append(len({run.spec.seed for run in those.runs}))
        parts.append(
            f"{experiment.replace('exp', 'esperimento ')}, {len(those.runs)} reti ({listing(number(one, 0) for one in epochs)} epoche)"
        )
    return {"composite_scale": "; ".join(parts), "composite_seeds": seeds_text(seeds)}
