"""What networks do over their epochs: statistics on the table of `sweep`, and the words of the epoch-wise chapter that they choose.

A *run* is one network, of one width and one seed; tables with a row a run go into `analysis.seed_means` and `paired_differences`.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ncbook import analysis
from ncbook.analysis import Estimate, estimate
from ncbook.pages import MISSING, differences_text, listing, number, tally, with_interval

SPREADS = {"std": "deviazione standard", "range": "escursione", "wobble": "oscillazione"}
"""The measures of `spreads`, and their names on the page."""
LATE = 200
"""The epoch from which the report calls its large network's error low and stable."""
REPORT_LATE = (0.07, 0.10)
"""The band in which nearly all points of the report's curve lie from then on."""
REPORT_SPIKE = (50, 100)
"""The epochs between which the report's curves stand against its words."""
_LEAST = 3  # recorded epochs in a window


def windows(epochs: Sequence[int]) -> list[list[int]]:
    """The epochs in half decades (1–3, 4–10, 11–31, 32–100, …); one with fewer than three of them goes with its neighbour."""
    halves = itertools.groupby(sorted(set(epochs)), key=lambda epoch: math.ceil(2 * math.log10(epoch)))
    found: list[list[int]] = []
    for _, half in halves:
        if found and len(found[-1]) < _LEAST:
            found[-1] += half
        else:
            found.append(list(half))
    if len(found) > 1 and len(found[-1]) < _LEAST:
        last = found.pop()
        found[-1] += last
    return found


def spreads(table: pd.DataFrame, metric: str = "test_error") -> pd.DataFrame:
    """How much each run's metric varies within each of the `windows`.

    Columns: width, seed, window ("11–31"), epoch (its geometric centre), measured (its recorded epochs), std (sample), range (max − min),
    wobble: sqrt(mean of the squared differences between consecutive records / 2), von Neumann's standard deviation, which a slow
    trend hardly moves.
    """
    rows = []
    for window in windows(table["epoch"]):
        inside = table[table["epoch"].isin(window)].sort_values("epoch")
        for (width, seed), run in inside.groupby(["width", "seed"]):
            values = run[metric].to_numpy(float)
            steps = np.diff(values)
            rows.append(
                {
                    "width": width,
                    "seed": seed,
                    "window": f"{number(window[0], 0)}–{number(window[-1], 0)}",
                    "epoch": math.sqrt(window[0] * window[-1]),
                    "measured": len(window),
                    "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "range": values.max() - values.min() if len(values) > 1 else np.nan,
                    "wobble": math.sqrt((steps**2).mean() / 2) if len(steps) else np.nan,
                }
            )
    return pd.DataFrame(rows)


def lasting_lead(epochs: Sequence[int], ahead: Sequence[bool]) -> float:
    """The first recorded epoch from which on `ahead` holds to the end; NaN if it does not hold at the end."""
    behind = np.flatnonzero(~np.asarray(ahead, dtype=bool))
    first = behind[-1] + 1 if len(behind) else 0
    return float(np.asarray(epochs)[first]) if first < len(epochs) else np.nan


def milestones(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: when it learns what. Columns: width, seed, and

    structure, structure_epoch: the greatest accuracy on flipped points against their true label, and its first epoch;
    memorised_then: the share of flipped points given their noisy label at that epoch; memorised: at the end;
    overtaken: the epoch from which on more flipped points have their noisy label than their true one (`lasting_lead`);
    collapse_overtaken: the epoch from which on NC1 (trace) is smaller on the noisy labels than on the true ones;
    best_error, best_epoch: the least test error; late_median, late_min, late_max: the test error from epoch `LATE` on.
    """
    rows = []
    for (width, seed), run in table.sort_values("epoch").groupby(["width", "seed"]):
        if not np.isfinite(run["train_loss"].iloc[-1]) or run["accuracy_flipped"].isna().all():
            rows.append({"width": width, "seed": seed})
            continue
        run = run.reset_index(drop=True)
        epochs, error = run["epoch"], run["test_error"]
        late = error[epochs >= LATE]
        peak = run["accuracy_flipped_clean"].idxmax()
        rows.append(
            {
                "width": width,
                "seed": seed,
                "structure": run["accuracy_flipped_clean"][peak],
                "structure_epoch": epochs[peak],
                "memorised_then": run["accuracy_flipped"][peak],
                "memorised": run["accuracy_flipped"].iloc[-1],
                "overtaken": lasting_lead(epochs, run["accuracy_flipped"] > run["accuracy_flipped_clean"]),
                "collapse_overtaken": lasting_lead(epochs, run["nc1_trace_ratio_noisy"] < run["nc1_trace_ratio_clean"]),
                "best_error": error.min(),
                "best_epoch": epochs[error.idxmin()],
                "late_median": late.median(),
                "late_min": late.min(),
                "late_max": late.max(),
            }
        )
    return pd.DataFrame(rows, columns=["width", "seed", *MILESTONES])


MILESTONES = (
    *("structure", "structure_epoch", "memorised_then", "memorised", "overtaken", "collapse_overtaken"),
    *("best_error", "best_epoch", "late_median", "late_min", "late_max"),
)


def order_text(run: dict) -> str:
    """Whether a run learns the clean structure before the noise; run: a row of `milestones`."""
    if not math.isfinite(run["structure"]):
        return "senza punti scambiati o divergente"
    if not math.isfinite(run["overtaken"]):
        return "la struttura è davanti anche alla fine" if run["structure"] > run["memorised"] else "nessuna delle due prevale"
    if run["structure"] > run["memorised_then"] and run["structure_epoch"] < run["overtaken"]:
        return "prima la struttura, poi il rumore"
    return "il rumore è davanti già alla prima misura"


def epoch_text(values: Sequence[float]) -> str:
    """The median of epochs and their range, `97 (84–120)`; says how many runs never come there."""
    reached = np.sort([value for value in values if math.isfinite(value)])
    if not len(reached):
        return "mai"
    text = number(float(np.median(reached)), 0)
    if len(reached) > 1:
        text += f" ({number(reached[0], 0)}–{number(reached[-1], 0)})"
    if len(reached) < len(values):
        text += f", in {len(reached)} {'seme' if len(reached) == 1 else 'semi'} su {len(values)}"
    return text


def spread_rows(spread: pd.DataFrame) -> list[list[str]]:
    """A row a window and width: window, recorded epochs, width, and the mean of each of `SPREADS`."""
    means = analysis.seed_means(spread, list(SPREADS), by=["epoch", "window", "measured", "width"])
    return [
        [window, str(measured), str(width), *(_cell(rows, metric) for metric in SPREADS)]
        for (_, window, measured, width), rows in means.groupby(["epoch", "window", "measured", "width"])
    ]


def _cell(rows: pd.DataFrame, metric: str) -> str:
    return with_interval(Estimate(*rows.set_index("metric").loc[metric, list(Estimate._fields)]))


def learning_rows(runs: pd.DataFrame) -> list[list[str]]:
    """A row a width, from `milestones`: what is learned, and when."""
    return [
        [
            str(width),
            with_interval(estimate(rows["structure"]).within(0, 1)),
            epoch_text(rows["structure_epoch"]),
            with_interval(estimate(rows["memorised_then"]).within(0, 1)),
            epoch_text(rows["overtaken"]),
            with_interval(estimate(rows["memorised"]).within(0, 1)),
            epoch_text(rows["collapse_overtaken"]),
        ]
        for width, rows in runs.groupby("width")
    ]


def level_rows(runs: pd.DataFrame) -> list[list[str]]:
    """A row a width, from `milestones`: the best test error, its epoch, and the level from `LATE` on."""
    return [
        [
            str(width),
            with_interval(estimate(rows["best_error"]).within(0, 1)),
            epoch_text(rows["best_epoch"]),
            *(with_interval(estimate(rows[f"late_{which}"]).within(0, 1)) for which in ("median", "min", "max")),
        ]
        for width, rows in runs.groupby("width")
    ]


def _span_text(values: Sequence[float]) -> str:
    """`da 0,072 a 0,130`; `n.d.` where there is no value."""
    finite = [value for value in values if math.isfinite(value)]
    return f"da {number(min(finite))} a {number(max(finite))}" if finite else MISSING


def in_band_text(low: float, high: float) -> str:
    """How the range of an error, `low` to `high`, lies to `REPORT_LATE`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"senza misure dopo l’epoca {LATE}"
    least, most = REPORT_LATE
    band = f"fascia {number(least, 2)}–{number(most, 2)}"
    if least <= low and high <= most:
        return f"resta entro la {band}"
    if low > most:
        return f"sta tutto sopra la {band}"
    if high < least:
        return f"sta tutto sotto la {band}"
    return f"esce dalla {band}"


def late_records_text(table: pd.DataFrame) -> str:
    """How many records of each network the level from `LATE` on rests on; table: that of `sweep`."""
    counts = sorted({int((run["epoch"] >= LATE).sum()) for _, run in table.groupby(["width", "seed"])})
    span = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"{span} {'misura' if counts == [1] else 'misure'} per rete"


def epoch_texts(table: pd.DataFrame, spread: pd.DataFrame, runs: pd.DataFrame, means: pd.DataFrame, points: pd.DataFrame) -> dict[str, str]:
    """The sentences of the chapter. spread, runs: from `spreads`, `milestones`; means: `analysis.seed_means` of the test error by epoch."""
    widths = sorted(set(table["width"]))
    widest, others = widths[-1], widths[:-1]
    only = "una sola larghezza, nessun confronto"

    def against_widest(frame: pd.DataFrame, metric: str, by: list[str]) -> dict[int, list[Estimate]]:
        """Per width: the differences from the widest, seed by seed."""
        found = {}
        for width in others:
            pairs = analysis.paired_differences(frame, [metric], column="width", of=width, minus=widest, by=by)
            found[width] = [Estimate(*row) for row in pairs[list(Estimate._fields)].itertuples(index=False) if row.n]
        return found

    texts = {"widest": f"W = {widest}", "windows": str(spread["window"].nunique())}
    texts |= {"late": str(LATE), "late_records": late_records_text(table)}
    for metric in SPREADS:
        sides = against_widest(spread, metric, ["window"])
        texts[f"{metric}_tally"] = "; ".join(f"W = {width}: {tally(values)}" for width, values in sides.items()) or only
    orders = {width: Counter(order_text(run) for run in rows.to_dict("records")) for width, rows in runs.groupby("width")}
    texts["order"] = "; ".join(
        f"W = {width}: " + listing(f"{order} ({count} {'seme' if count == 1 else 'semi'})" for order, count in counts.items())
        for width, counts in orders.items()
    )
    large = runs[runs["width"] == widest]
    texts["late_level"] = with_interval(estimate(large["late_median"]).within(0, 1))
    low, high = large["late_min"].min(), large["late_max"].max()
    texts["late_range"] = _span_text([low, high])
    texts["late_band"] = in_band_text(low, high)
    levels = against_widest(runs.assign(all="all"), "late_median", ["all"])
    texts["late_differences"] = (
        differences_text([(f"W = {width}", value) for width, values in levels.items() for value in values])
        if any(levels.values())
        else (only if not others else f"nessuna misura dopo l’epoca {LATE}")
    )
    theirs = points.pivot(index="epoch", columns="width", values="value")
    narrow, wide = theirs.columns.min(), theirs.columns.max()
    late_points = theirs.loc[LATE:, wide].dropna()
    texts["report_late_range"] = _span_text(late_points)
    least, most = REPORT_LATE
    texts["report_band"] = f"{number(least, 2)}–{number(most, 2)}"
    texts["report_in_band"] = f"{int(late_points.between(least, most).sum())} su {len(late_points)}"
    texts["report_spike"] = listing(REPORT_SPIKE)
    spike = theirs.loc[slice(*REPORT_SPIKE)]
    texts |= {"report_critical_range": _span_text(spike[narrow]), "report_large_range": _span_text(spike[wide])}
    beside = analysis.beside_report(means, points).dropna(subset="difference")
    texts["report_distance"] = (
        "; ".join(
            f"W = {width}: mediana {number(rows['difference'].abs().median())}, media {number(rows['difference'].mean(), sign=True)} "
            f"({len(rows)} punti)"
            for width, rows in beside.groupby("width")
        )
        or "nessuna larghezza e nessuna epoca in comune"
    )
    return texts
