"""The predictors of collapse against one another: protocols, figures, table rows and sentences of the chapter on prediction."""

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncbook.analysis import Estimate
from ncbook.fn.experiments import THRESHOLD
from ncbook.fn.measures import ARCHITECTURE, CONDITIONS
from ncbook.fn.onset import groups
from ncbook.fn.pages import MISSING, column_estimate, counted, listing, number, with_interval
from ncbook.fn.predictor import EXTRAPOLATED, FEATURE_NORM, MEAN_ONSET, PREDICTORS, errors, predictions
from ncbook.plots import CYCLE, FIGURE_WIDTH, STYLE

PROTOCOLS = {"other runs": ("key",), "other conditions": CONDITIONS}
"""Where fn* and the lead come from, and the columns whose values the sources may not share with the run they predict.

All have its data and architecture. "other runs" may be the same condition with another seed; "other conditions" differ in weight decay,
rate, batch size or optimiser, so that a condition is predicted which nobody has trained before.
"""
NAMES = {FEATURE_NORM: "fn crosses fn*", MEAN_ONSET: "mean onset", EXTRAPOLATED: "extrapolated NC1"}
_COLUMNS = [*"protocol key predictor predicted error lead T_NC crossing censored last_epoch".split(), *ARCHITECTURE]
_COLORS = dict(zip(PREDICTORS, (CYCLE[1], CYCLE[0], CYCLE[2])))
_MARKERS = dict(zip(PREDICTORS, "osD"))


def forecasts(table: pd.DataFrame) -> pd.DataFrame:
    """`predictor.predictions` under each of `PROTOCOLS` (column protocol), of the runs without intervention that have sources."""
    left_alone = table[table["factor"].isna()]
    if left_alone["key"].nunique() < 2:
        return pd.DataFrame(columns=_COLUMNS)
    made = [
        predictions(left_alone, THRESHOLD, leave_out=left_out, within=ARCHITECTURE).assign(protocol=protocol)
        for protocol, left_out in PROTOCOLS.items()
    ]
    found = pd.concat(made, ignore_index=True)
    return found[found["sources"] > 0].reset_index(drop=True)


def scatter(found: pd.DataFrame) -> Figure:
    """Predicted over actual T_NC: a panel for each protocol, a colour for each predictor; on the diagonal a prediction is right."""
    known = found.dropna(subset=["predicted", "T_NC"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, 4.0), layout="constrained")
        axes = figure.subplots(1, len(PROTOCOLS), sharex=True, sharey=True)
        low, high = (known["T_NC"].min(), known["T_NC"].max()) if len(known) else (0.0, 1.0)
        room = 0.1 * (high - low) + 1
        for ax, protocol in zip(axes, PROTOCOLS):
            ax.axline((low, low), slope=1, color="0.4", lw=1, ls=(0, (4, 2)))
            for predictor in PREDICTORS:
                rows = known[(known["protocol"] == protocol) & (known["predictor"] == predictor)]
                predicted = rows["predicted"].clip(low - 3 * room, high + 3 * room)
                ax.plot(rows["T_NC"], predicted, _MARKERS[predictor], mfc="none", mec=_COLORS[predictor], ms=6, mew=1.3)
            ax.set_title(f"from {protocol}", fontweight="bold")
            ax.set_xlabel("$T_{NC}$ (epoch)")
            ax.set_xlim(low - room, high + room)
            ax.set_ylim(low - 3.3 * room, high + 3.3 * room)
            if not (known["protocol"] == protocol).any():
                ax.text(0.5, 0.75, "nothing to compare", transform=ax.transAxes, ha="center", color="0.35")
        axes[0].set_ylabel("predicted $T_{NC}$ (epoch)")
        handles = [Line2D([], [], ls="", marker=_MARKERS[p], mfc="none", mec=_COLORS[p], mew=1.3, label=NAMES[p]) for p in PREDICTORS]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def lead_table(found: pd.DataFrame) -> pd.DataFrame:
    """The runs that collapsed and crossed fn*: protocol, key, T_NC, crossing, lead."""
    rows = found[found["predictor"] == FEATURE_NORM].dropna(subset="lead")
    return rows[["protocol", "key", "T_NC", "crossing", "lead"]]


def leads(found: pd.DataFrame, reported: float) -> Figure:
    """T_NC less the crossing of fn*, run by run: a row for each protocol; the paper's mean lead as a line."""
    rng, rows = np.random.default_rng(0), lead_table(found)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, 2.6), layout="constrained")
        ax = figure.subplots()
        for place, protocol in enumerate(PROTOCOLS):
            values = rows.loc[rows["protocol"] == protocol, "lead"]
            ax.plot(values, place + rng.uniform(-0.18, 0.18, len(values)), "o", mfc="none", mec=_COLORS[FEATURE_NORM], ms=6, mew=1.3)
            ax.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="0.2", lw=2.5)
        ax.axvline(0, color="0.4", lw=1)
        ax.axvline(reported, color="0.4", lw=1.2, ls="-.")
        ax.set_yticks(range(len(PROTOCOLS)), [f"fn* from\n{protocol}" for protocol in PROTOCOLS])
        ax.set_ylim(len(PROTOCOLS) - 0.5, -0.5)
        ax.set_xlabel("lead: $T_{NC}$ less the crossing of fn* (epochs)")
        handles = [
            Line2D([], [], ls="", marker="o", mfc="none", mec=_COLORS[FEATURE_NORM], mew=1.3, label="a run"),
            Line2D([], [], color="0.2", lw=2.5, label="mean"),
            Line2D([], [], color="0.4", ls="-.", label="the paper's mean"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def error_rows(found: pd.DataFrame) -> list[list[str]]:
    """Rows for a numbered table, a protocol and predictor each: counts of `errors`, its errors, and how much worse it is than the norm."""
    if found.empty:
        return [[protocol, "none", "0", *[MISSING] * 6] for protocol in PROTOCOLS]
    rows = []
    for row in errors(found, ["protocol"]).to_dict("records"):
        worse = MISSING if row["predictor"] == FEATURE_NORM else with_interval(column_estimate(row, "worse"), 1, sign=True)
        counts = [number(row[column], 0) for column in ("runs", "silent", "false", "mae_n")]
        mean = with_interval(column_estimate(row, "mae"), 1)
        rows.append([row["protocol"], NAMES[row["predictor"]], *counts, mean, number(row["median"], 1), worse])
    return rows


def texts(found: pd.DataFrame) -> dict[str, str]:
    """The chapter's sentences, to glue: ahead, compared, sources."""
    pairs = found.drop_duplicates("key")
    cells = groups(pairs, ARCHITECTURE).nunique() if len(pairs) else 0
    return {
        "sources": f"{counted(len(pairs), 'run')} of {counted(cells, 'pair')} of architecture and data have others to be predicted from",
        "ahead": " ".join(_ahead(found, protocol) for protocol in PROTOCOLS),
        "compared": " ".join(_compared(found, protocol) for protocol in PROTOCOLS),
    }


def _ahead(found: pd.DataFrame, protocol: str) -> str:
    own = found[(found["protocol"] == protocol) & (found["predictor"] == FEATURE_NORM)]
    crossed = own.dropna(subset="lead")
    if crossed.empty:
        return f"With fn* from {protocol} no run both collapsed and was signalled."
    before = int((crossed["lead"] > 0).sum())
    silent = int((own["crossing"].isna() & ~own["censored"]).sum())
    return (
        f"With fn* from {protocol} the crossing came before collapse in {before} of {counted(len(crossed) + silent, 'run')} that collapsed"
        f"{f', {silent} of which never crossed it' if silent else ''}; where there is one, the lead is "
        f"{number(crossed['lead'].mean(), 1)} epochs in the mean, {number(crossed['lead'].min(), 1)} to {number(crossed['lead'].max(), 1)}."
    )


def _compared(found: pd.DataFrame, protocol: str) -> str:
    rows = errors(found[found["protocol"] == protocol]).set_index("predictor") if (found["protocol"] == protocol).any() else None
    if rows is None or not rows["mae_n"].max():
        return f"From {protocol} nothing can be compared: no run collapsed about which every predictor speaks."
    norm = with_interval(column_estimate(rows.loc[FEATURE_NORM], "mae"), 1)
    others = [f"{NAMES[other]} {_against_norm(column_estimate(rows.loc[other], 'worse'))}" for other in (MEAN_ONSET, EXTRAPOLATED)]
    runs = counted(int(rows["mae_n"].max()), "run")
    return f"From {protocol}, the norm misses by {norm} epochs in the mean over {runs}; {listing(others)}."


def _against_norm(worse: Estimate) -> str:
    amount = f"({with_interval(worse, 1, sign=True)} epochs)"
    if math.isnan(worse.low):
        return f"differs from that without an interval {amount}"
    if worse.low > 0:
        return f"misses by more {amount}"
    return f"misses by less {amount}" if worse.high < 0 else f"cannot be told apart from it {amount}"
