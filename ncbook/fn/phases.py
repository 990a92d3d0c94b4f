"""The chapter on weight decay: the regimes that it makes, what bounds them, and how fn* clusters where networks collapse."""

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import stats

from ncbook.analysis import estimate
from ncbook.fn import paper
from ncbook.fn.onset import COLLAPSE, DIVERGED, FITTED, MIXED, NO_COLLAPSE, NO_FIT, REGIMES, regimes, where_all_collapse
from ncbook.fn.pages import MISSING, counted, last_epochs, number, percent, with_interval
from ncbook.fn.statistics import extremes, relative_effect
from ncbook.fn.sweeps import WEIGHT_DECAY, by_level, effect, variation_text
from ncbook.plots import STYLE

COLUMN = WEIGHT_DECAY.column
_REGIME_COLORS = {COLLAPSE: "#009E73", NO_COLLAPSE: "#56B4E9", NO_FIT: "#D55E00", DIVERGED: "0.4", MIXED: "#CC79A7"}


def phase_diagram(ended: pd.DataFrame, threshold: float) -> Figure:
    """What puts each run into its regime, over the evenly spaced weight decays: its least NC1, and its training error at the end.

    ended: of `endings`. A dot is a run, dotted lines are the limits, and the background is the regime of all runs at that weight decay.
    """
    phases = regimes(ended, [COLUMN])
    levels = list(phases[COLUMN])
    places = ended[COLUMN].map(levels.index).astype(float)
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(ended))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True)
        for ax, column, limit, label in zip(
            axes, ("nc1_least", "final_train_error"), (threshold, FITTED), ("least NC1 after the switch", "training error at the end")
        ):
            for place, regime in enumerate(phases["regime"]):
                ax.axvspan(place - 0.5, place + 0.5, color=_REGIME_COLORS[regime], alpha=0.3, lw=0)
            ax.plot(places + jitter, ended[column], "o", color="0.15", alpha=0.8)
            ax.axhline(limit, ls=":", color="0.3")
            ax.grid(axis="x", visible=False)
            ax.set_ylabel(label)
        axes[0].set_yscale("log")
        axes[1].set_yscale("symlog", linthresh=0.01)
        axes[1].set_ylim(-0.002, 1.2)
        axes[1].set_xlim(-0.5, len(levels) - 0.5)
        axes[1].set_xticks(range(len(levels)), map(WEIGHT_DECAY.label, levels))
        axes[1].set_xlabel(WEIGHT_DECAY.axis)
        shown = [Patch(color=color, alpha=0.3, label=regime) for regime, color in _REGIME_COLORS.items() if regime in set(phases["regime"])]
        figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))
    return figure


def regime_texts(onsets: pd.DataFrame) -> dict[str, str]:
    """The regimes and their edges: regimes (levels of each), lower_edge, upper_edge (the outermost levels against the quickest)."""
    phases = regimes(onsets, [COLUMN]).set_index(COLUMN)
    parts = [f"{regime} {WEIGHT_DECAY.at(*levels)}" for regime in _REGIME_COLORS if len(levels := phases.index[phases["regime"] == regime])]
    times = by_level(onsets, WEIGHT_DECAY, "since_switch")
    texts = {"regimes": "; ".join(parts)}
    if not times:
        return texts | dict.fromkeys(("lower_edge", "upper_edge"), "no run collapsed, so that there is no optimal range to be beside")
    quickest = min(times, key=lambda level: times[level].mean())
    for edge, level in (("lower_edge", phases.index[0]), ("upper_edge", phases.index[-1])):
        cell = onsets[onsets[COLUMN] == level]
        if level == quickest:
            texts[edge] = f"{WEIGHT_DECAY.called(level)}, where the grid ends, is the quickest: this side of the optimum was not reached"
        elif phases.loc[level, "regime"] == COLLAPSE:
            slower = f"differs by {effect(relative_effect(times[level], times[quickest]))} from the shortest, {WEIGHT_DECAY.at(quickest)}"
            texts[edge] = f"{WEIGHT_DECAY.at(level)} the time to collapse {slower}"
        else:
            share = f"{phases.loc[level, COLLAPSE]} of {counted(len(cell), 'run')} until {last_epochs(cell)}"
            error = with_interval(estimate(cell["final_train_error"]).within(0, 1))
            gone = f"; in {count} all features had become one point" if (count := (cell["censored"] & cell["one_point"]).sum()) else ""
            texts[edge] = f"{WEIGHT_DECAY.at(level)} collapse came in {share} (final training error {error}{gone})"
    return texts


def regime_rows(onsets: pd.DataFrame) -> list[list[str]]:
    """Rows for a table: level, runs in each regime, the regime of all, final training error; from the least to the greatest where regimes
    are mixed, as a mean would be of neither kind."""
    rows = []
    for row in regimes(onsets, [COLUMN]).to_dict("records"):
        cell = onsets[onsets[COLUMN] == row[COLUMN]]
        counts, errors = [str(row[regime]) for regime in REGIMES], cell["final_train_error"]
        mixed = f"{number(errors.min(), 4)} to {number(errors.max(), 4)}"
        error = mixed if row["regime"] == MIXED else with_interval(estimate(errors).within(0, 1), 4)
        rows.append([WEIGHT_DECAY.label(row[COLUMN]), *counts, row["regime"], error])
    return rows


def cluster_texts(onsets: pd.DataFrame) -> dict[str, str]:
    """fn* over the weight decays at which every run collapses.

    collapsing (these weight decays), cluster (a sentence on the mean and the variation of fn*), within_sigma, onset_range (in epochs).
    """
    whole = where_all_collapse(onsets, [COLUMN])
    times, norms = {level: runs["T_NC"] for level, runs in whole.groupby(COLUMN)}, whole["fn_star"]
    if not times:
        cluster = "No weight decay makes every run collapse, and there is no mean of fn* over weight decays"
        return {"collapsing": "none", "cluster": cluster, "within_sigma": MISSING, "onset_range": MISSING}
    variation = variation_text(whole, COLUMN)
    if len(times) > 1:
        slow, quick, difference = extremes(times)
        apart = f"{with_interval(difference, 1)} epochs ({WEIGHT_DECAY.called(slow)} less {WEIGHT_DECAY.called(quick)})"
        mean = with_interval(estimate(whole.groupby(COLUMN)["fn_star"].mean()).within(0))
        which = f"the {len(times)} weight decays at which every run collapses"
        cluster = f"Over {which}, each counted once, the mean of fn* is {mean}, with {variation}"
    else:
        apart = f"{MISSING}, as there is only one"
        mean = with_interval(estimate(norms).within(0))
        cluster = (
            f"At the only weight decay at which every run collapses fn* is {mean}, with {variation}; a mean over weight decays there is not"
        )
    within = int(((norms - norms.mean()).abs() <= norms.std(ddof=1)).sum())
    return {
        "collapsing": WEIGHT_DECAY.called(*times),
        "cluster": cluster,
        "within_sigma": f"{within} of {len(norms)}" if len(norms) > 1 else MISSING,
        "onset_range": apart,
    }


def reported_texts() -> dict[str, str]:
    """The paper's numbers on fn* over weight decays, and what follows from them by arithmetic alone.

    reported_norm, reported_variation, reported_interval, reported_runs, reported_shift; student_interval: what Student's t makes of the
    first two and the number of runs.
    """
    reported = {key: one.value for key, one in paper.WEIGHT_DECAY.items()}
    mean, runs = reported["fn_star"], reported["runs"]
    half = stats.t.ppf(0.975, runs - 1) * mean * reported["variation"] / math.sqrt(runs)
    return {
        "reported_norm": number(mean),
        "reported_variation": percent(reported["variation"]),
        "reported_interval": f"[{number(reported['fn_star_low'])}, {number(reported['fn_star_high'])}]",
        "reported_runs": str(runs),
        "reported_shift": str(reported["onset_shift"]),
        "student_interval": f"[{number(mean - half)}, {number(mean + half)}]",
    }
