"""Scaled features and what becomes of them: labels, table rows and sentences of the chapter on interventions."""

import math
from typing import Any

import numpy as np
import pandas as pd

from ncbook.analysis import estimate
from ncbook.fn.onset import trajectories
from ncbook.fn.pages import MISSING, column_estimate, counted, listing, number, p_value, with_interval
from ncbook.fn.statistics import intervention_effects

UNTOUCHED = "untouched"


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the column scaling: `untouched`, or `features × 0.5 at epoch 80`."""
    return table.assign(scaling=[_scaling(row) for row in table[["factor", "factor_epoch", "target"]].to_dict("records")])


def _scaling(row: dict[str, Any]) -> str:
    return UNTOUCHED if pd.isna(row["factor"]) else f"{row['target']} × {row['factor']:g} at epoch {row['factor_epoch']}"


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """The norm of each scaled run over that of the untouched run of its seed, from the scaling on, as long as both were observed.

    Columns: key, scaling, seed, switch, factor, epoch, ratio; the first row of a run is the scaling itself, of a ratio that is the factor.
    The untouched norm is interpolated between its records, linearly in its logarithm. Untouched runs stand with the ratio 1 from the first
    scaling on. Runs whose seed has no untouched one are left out.
    """
    runs = list(trajectories(labelled(table)))
    untouched = {labels["seed"]: path for labels, path in runs if labels["scaling"] == UNTOUCHED and len(path.epochs)}
    first = min((labels["factor_epoch"] for labels, _ in runs if labels["scaling"] != UNTOUCHED), default=0)
    rows = []
    for labels, path in runs:
        if labels["seed"] not in untouched:
            continue
        scaled, other = labels["scaling"] != UNTOUCHED, untouched[labels["seed"]]
        at = int(labels["factor_epoch"]) if scaled else int(first)
        inside = (path.epochs > at) & (path.epochs <= other.epochs[-1])
        ratio = path.norm[inside] / np.exp(np.interp(path.epochs[inside], other.epochs, np.log(other.norm)))
        shared = {name: labels[name] for name in ("key", "scaling", "seed", "switch", "factor")}
        start = labels["factor"] if scaled else 1.0
        rows += [{**shared, "epoch": epoch, "ratio": value} for epoch, value in zip([at, *path.epochs[inside]], [start, *ratio])]
    return pd.DataFrame(rows, columns=["key", "scaling", "seed", "switch", "factor", "epoch", "ratio"])


def half_lives(recovered: pd.DataFrame) -> pd.DataFrame:
    """A row for each scaled run: key, scaling, epochs until the logarithm of the ratio first had half its size (NaN: never), last ratio."""
    rows = []
    for key, run in recovered[recovered["factor"].notna()].groupby("key", sort=False):
        size = run["ratio"].map(math.log).abs()
        halved = run["epoch"][size <= size.iloc[0] / 2]
        half_life = float(halved.iloc[0] - run["epoch"].iloc[0]) if len(halved) else math.nan
        rows.append({"key": key, "scaling": run["scaling"].iloc[0], "half_life": half_life, "last": run["ratio"].iloc[-1]})
    return pd.DataFrame(rows, columns=["key", "scaling", "half_life", "last"])


def effect_rows(onsets: pd.DataFrame, margin: float) -> list[list[str]]:
    """Rows for a numbered table, one for each scaling: runs, shift of fn* and of T_NC against the untouched runs, tests, verdict."""
    if onsets.loc[onsets["factor"].isna(), "fn_star"].isna().all():
        scaled = labelled(onsets[onsets["factor"].notna()]).groupby("scaling")
        return [[label, f"0 of {len(runs)}", *[MISSING] * 5] for label, runs in scaled]
    moments = intervention_effects(onsets, margin, "since_switch").to_dict("records")
    rows = []
    for norm, moment in zip(intervention_effects(onsets, margin).to_dict("records"), moments):
        used = norm["runs"] - norm["censored"] - norm["too_late"]
        shift = [with_interval(column_estimate(row, "difference"), digits, sign=True) for row, digits in ((norm, 3), (moment, 1))]
        tests = [p_value(norm["p_difference"]), p_value(norm["p_equivalence"]), norm["verdict"]]
        rows.append([_scaling(norm), f"{used} of {norm['runs']}", *shift, *tests])
    return rows


def texts(onsets: pd.DataFrame, recovered: pd.DataFrame, margin: float) -> dict[str, str]:
    """The chapter's sentences, to glue: verdicts, returns."""
    return {"verdicts": _verdicts(onsets, margin), "returns": _returns(half_lives(recovered))}


def _verdicts(onsets: pd.DataFrame, margin: float) -> str:
    untouched = onsets.loc[onsets["factor"].isna(), "fn_star"]
    if untouched.isna().all():
        return "No untouched run collapsed, so that there is no fn* to return to: nothing can be tested."
    found = intervention_effects(onsets, margin)
    text = f"The untouched runs have fn* {with_interval(estimate(untouched).within(0))}; the margin is {number(found['margin'].iloc[0])}."
    for verdict, scalings in found.groupby("verdict", sort=False):
        text += f" {str(verdict).capitalize()}: {listing(map(_scaling, scalings.to_dict('records')))}."
    if late := int(found["too_late"].sum()):
        text += f" {counted(late, 'run')} had collapsed before the scaling and {'says' if late == 1 else 'say'} nothing about it."
    return text


def _returns(halves: pd.DataFrame) -> str:
    if halves.empty:
        return "No scaled run has an untouched one of its seed beside it."
    parts = []
    for scaling, runs in halves.groupby("scaling", sort=False):
        known = runs["half_life"].dropna()
        epochs = _span(known) if len(known) else ""
        time = f"after {epochs} {'epoch' if epochs == '1' else 'epochs'}" if epochs else "in no run"
        missing = f" ({counted(len(runs) - len(known), 'run')} never)" if 0 < len(known) < len(runs) else ""
        parts.append(f"{scaling}: {time}{missing}, the last ratio {_span(runs['last'], 2)}")
    return f"Half of the distance, in logarithms, was first made up: {'; '.join(parts)}."


def _span(values: pd.Series, digits: int = 0) -> str:
    """`3`, or `3 to 5`."""
    ends = dict.fromkeys(number(value, digits) for value in (values.min(), values.max()))
    return " to ".join(ends)
