"""The figure on the book's first page, and its words: double descent, and what becomes of the order inside the networks.

One curve over the width, and the features of three of its networks: before the peak of the test error, at it, and the widest.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from ncbook import analysis
from ncbook.data import Data
from ncbook.fn.pages import listing, seeds_text, with_interval
from ncbook.fn.plots import english_axis, point_tick
from ncbook.plots import COLORS, STYLE
from ncbook.representations import activations
from ncbook.store import Run

ERROR, NOISY, CLEAN = "test_error", "nc1_trace_ratio_noisy", "nc1_trace_ratio_clean"
"""The metrics drawn: the second with classes after the labels trained on, the third after the true ones."""
POINTS = 120  # of each class that the clouds show
_SHADES = ("#0072B2", "#D55E00", "#009E73")
_LETTERS = "ABC"
_REACH = 2.1  # of the pictures of clouds, in the unit of `plane`


def shown_widths(last: pd.DataFrame) -> list[int]:
    """Up to three widths: lowest error before the interior peak, the peak, the widest; without such a peak the ends and the middle.

    last: `analysis.last_epoch` of one model and optimiser.
    """
    widths = sorted(int(width) for width in last["width"].unique())
    peaks = analysis.peaks(last, ERROR)
    middle = widths[len(widths) // 2]
    chosen = (widths[0], middle) if peaks.empty else tuple(int(peaks.iloc[0][name]) for name in ("before_width", "width"))
    return sorted({*chosen, widths[-1]})


def plane(features: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, d]` seen in the plane in which the means of three classes lie: points `[N, 2]` and means `[3, 2]`.

    The origin is the mean of the three; the unit their root mean square distance from it, so that a cloud as wide as 1 is as wide as its
    classes are apart.
    """
    means = np.stack([features[labels == label].mean(0) for label in classes])
    centre = means.mean(0)
    axes = np.linalg.svd(means - centre, full_matrices=False)[2][:2]
    unit = np.sqrt(np.square(means - centre).sum(1).mean())
    points, corners = ((these - centre) @ axes.T / unit for these in (features, means))
    if np.linalg.det(corners[1:] - corners[0]) < 0:  # every picture goes around the same way
        points, corners = points * [1, -1], corners * [1, -1]
    turn = corners[0] / np.linalg.norm(corners[0])  # and has its first class on top
    rotation = np.array([[turn[1], turn[0]], [-turn[0], turn[1]]])
    return points @ rotation, corners @ rotation


def clouds(runs: Sequence[Run], widths: Sequence[int], data: Data, classes: Sequence[int]) -> pd.DataFrame:
    """The first `POINTS` training points of each class, as the networks of these widths and of the least seed hold them in the end.

    Classes are those of the labels trained on. Columns: width, label, kind ("point" or "mean"), x and y as in `plane`.
    """
    tables = []
    for width in widths:
        run = min((run for run in runs if run.spec.model.width == width), key=lambda run: run.spec.seed)
        features: Tensor = activations(run, int(run.epochs[-1]), data.x_train)["features"]
        labels = data.y_noisy.numpy()
        points, means = plane(features.double().numpy(), labels, classes)
        kept = [np.flatnonzero(labels == label)[:POINTS] for label in classes]
        for kind, places in (("point", [points[those] for those in kept]), ("mean", means[:, None])):
            for label, xy in zip(classes, places):
                tables.append(pd.DataFrame({"width": width, "label": label, "kind": kind, "x": xy[:, 0], "y": xy[:, 1]}))
    return pd.concat(tables, ignore_index=True)


def figure(means: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """The clouds, and below them test error and NC1 over the width.

    means: from `analysis.seed_means`, of one model and optimiser, `ERROR`, `NOISY` and `CLEAN`; points: from `clouds`.
    """
    widths = sorted(points["width"].unique())
    color = COLORS.get(means["optimizer"].iloc[0], "0.2")
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(6.0, 4.6), layout="constrained")
        top, bottom = drawing.subfigures(2, 1, height_ratios=[2.0, 2.6])
        for ax, letter, width in zip(top.subplots(1, len(widths), sharex=True, sharey=True, squeeze=False)[0], _LETTERS, widths):
            _cloud(ax, points[points["width"] == width])
            ax.set_title(f"{letter}: $W$ = {width}", fontweight="bold")
        left, right = bottom.subplots(1, 2, sharex=True)
        _over_width(left, means, {ERROR: ("", color, "-")}, widths)
        english_axis(left, bool((means[means["metric"] == ERROR]["mean"] > 0).all()))
        left.set_ylabel("test error")
        _over_width(right, means, {NOISY: ("labels trained on", "0.25", "-"), CLEAN: ("true labels", "#AA4499", (0, (4, 2)))}, widths)
        english_axis(right, False)
        right.set_ylim(bottom=0)
        right.set_ylabel("NC1")
        handles = right.get_legend_handles_labels()[0]
        bottom.legend(handles=handles, loc="outside lower right", ncols=2, handlelength=2.2)
    return drawing


def _cloud(ax: Axes, rows: pd.DataFrame) -> None:
    """The points of three classes, each of which has its colour, and at its mean its name."""
    for (label, those), color in zip(rows.groupby("label"), _SHADES):
        points, mean = (those[those["kind"] == kind] for kind in ("point", "mean"))
        ax.plot(points["x"], points["y"], ".", color=color, ms=2.5)
        ax.plot(mean["x"], mean["y"], "o", color="white", mec=color, mew=1.5, ms=15)
        ax.annotate(str(label), mean[["x", "y"]].iloc[0], ha="center", va="center_baseline", fontweight="bold", color=color)
    ax.set(aspect="equal", xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH))
    ax.set_axis_off()


def _over_width(ax: Axes, means: pd.DataFrame, series: Mapping[str, tuple[str, str, object]], marked: Sequence[int]) -> None:
    """Lines with their bands; the widths of the clouds under their letters."""
    for width, letter in zip(marked, _LETTERS):
        ax.axvline(width, color="0.4", ls=(0, (4, 2)), lw=1.2)
        ax.annotate(letter, (width, 1), (0, 2), ("data", "axes fraction"), "offset points", ha="center", fontweight="bold")
    for metric, (label, color, dashes) in series.items():
        curve = means[means["metric"] == metric].sort_values("width")
        ax.plot(curve["width"], curve["mean"], color=color, ls=dashes, label=label, marker="o")
        ax.fill_between(curve["width"], curve["low"], curve["high"], color=color, alpha=0.18, lw=0)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(LogLocator(2, numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(point_tick))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("width $W$")


def texts(last: pd.DataFrame, means: pd.DataFrame, widths: Sequence[int]) -> dict[str, str]:
    """What the page says of the figure: `front_errors`, `front_order`, `front_seeds`."""
    at = means.set_index(["metric", "width"]).sort_index()

    def value(metric: str, width: int) -> str:
        return with_interval(analysis.Estimate(*at.loc[(metric, width), ["mean", "low", "high", "n"]]))

    def greatest(metric: str) -> int:
        return int(at.loc[metric]["mean"].idxmax())

    errors = [f"{value(ERROR, width)} at W = {width} ({letter})" for letter, width in zip(_LETTERS, widths)]
    peaks = analysis.peaks(last, ERROR)
    shape = "has no interior peak" if peaks.empty else f"peaks at W = {int(peaks.iloc[0]['width'])}"
    return {
        "front_errors": f"The test error {shape}: {listing(errors)}.",
        "front_order": f"NC1, the scatter within classes divided by that between them, is greatest at W = {greatest(NOISY)} for the labels "
        f"trained on and {'also' if greatest(CLEAN) == greatest(NOISY) else f'at W = {greatest(CLEAN)}'} for the true ones; at "
        f"W = {max(widths)} it is {value(NOISY, max(widths))} and {value(CLEAN, max(widths))}.",
        "front_seeds": seeds_text(means["n"].max()),
    }


def shown(means: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """All that `figure` draws, in one table; the column kind says "curve", "point" or "mean"."""
    return pd.concat([means.assign(kind="curve"), points], ignore_index=True)
