"""Where the feature norm ends, beside the equilibrium of `equilibrium`: tables, figures and sentences of the chapter on it."""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from ncbook.analysis import estimate, last_epoch
from ncbook.fn.equilibrium import critical_weight_decay, equilibrium_norm, gain, turning_weight_decay
from ncbook.fn.experiments import BASELINE, THRESHOLD
from ncbook.fn.onset import FITTED, METRIC, onsets, trajectories
from ncbook.fn.pages import MISSING, counted, listing, number, percent, percent_with_interval, power, with_interval
from ncbook.fn.statistics import relative_effect
from ncbook.plots import CYCLE, FIGURE_WIDTH, STYLE, Panel

TAIL = 50
"""Epochs at the end of a run over which its drift is taken."""
LEVELS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Thresholds of NC1 at which the norm is read."""
NEAR = 0.05
"""Norms that differ by less, relatively, are called equal on the page."""
VANISHED = 1e-3
"""A layer with a smaller squared norm has vanished, and nothing is left to be balanced."""
IMBALANCE = Panel("largest / least ‖W‖²", {"imbalance": ""}, log=True)
_LAYER = "squared_norm_"


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns setting, `λ = 10⁻⁴, rate 10⁻³`, and imbalance, the largest squared norm of a layer over the least; NaN where a
    layer has `VANISHED`."""
    settings = [f"λ = {power(decay)}, rate {power(lr)}" for decay, lr in zip(table["weight_decay"], table["lr"])]
    layers = table[_layers(table)]
    least = layers.min(axis=1)
    return table.assign(setting=settings, imbalance=(layers.max(axis=1) / least).where(least >= VANISHED))


def _layers(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column.startswith(_LAYER)]


def settled(table: pd.DataFrame) -> pd.DataFrame:
    """`onset.onsets` of a table of `labelled` with where the norm ends, a row a run.

    Columns besides: final (the last finite norm after the switch), final_nc1 (NC1 there; NaN where it is undefined), drift (change of the
    norm over the last `TAIL` epochs, relative; NaN where fewer were recorded after the switch), ratio (fn* over final), vanished (a layer
    has, at its last record) and reference (the baseline's own rate and weight decay).
    """
    found = onsets(table, THRESHOLD)
    ordered = table.sort_values("epoch")
    last = ordered.groupby("key").tail(1).set_index("key")
    alive = ordered[(ordered["epoch"] > ordered["switch"]) & np.isfinite(ordered["feature_norm"])].groupby("key").tail(1).set_index("key")
    final = found["key"].map(alive["feature_norm"])
    return found.assign(
        final=final,
        final_nc1=found["key"].map(alive[METRIC]),
        drift=[path.change_since(-TAIL) for _, path in trajectories(table)],
        ratio=found["fn_star"] / final,
        vanished=found["key"].map(last[_layers(table)].min(axis=1) < VANISHED),
        reference=_is_reference(found),
    )


def fitted_gain(ends: pd.DataFrame) -> float:
    """The gain of the hidden layers, from the mean final norm of the reference runs alone; NaN where there is none that fits its data."""
    runs = ends[ends["reference"] & ~ends["diverged"] & (ends["final_train_error"] <= FITTED)]
    if runs.empty:
        return math.nan
    try:
        return gain(float(runs["final"].mean()), **_model(ends), weight_decay=BASELINE.optimizer.weight_decay)
    except ValueError:
        return math.nan


def _model(ends: pd.DataFrame) -> dict[str, int | str]:
    return {"depth": int(ends["depth"].iloc[0]), "reduction": ends["reduction"].iloc[0]}


def predicted(ends: pd.DataFrame) -> pd.DataFrame:
    """With the column predicted: the equilibrium norm at each run's weight decay; NaN without weight decay or without a gain."""
    strength = fitted_gain(ends)
    known = math.isfinite(strength)
    norms = [equilibrium_norm(decay, strength, **_model(ends)) if known and decay > 0 else math.nan for decay in ends["weight_decay"]]
    return ends.assign(predicted=norms)


def norms_at_levels(table: pd.DataFrame, ends: pd.DataFrame, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """fn where NC1 first falls below each level: key, setting, seed, level, norm, share (of the final norm); no row where it does not.

    A level that the first record after the switch lies below already is left out: the norm then is that of the crash.
    """
    final = ends.set_index("key")["final"]
    parts = [onsets(table, level).assign(level=level) for level in levels]
    found = pd.concat(parts, ignore_index=True)
    found = found[~found["censored"] & ~found["at_start"]].rename(columns={"fn_star": "norm"})
    found = found.assign(share=found["norm"] / found["key"].map(final))
    return found[["key", "setting", "seed", "level", "norm", "share"]].reset_index(drop=True)


def curve(ends: pd.DataFrame) -> pd.DataFrame:
    """The predicted norm over weight decays around those of the runs: weight_decay, predicted. Empty without a gain."""
    strength, decays = fitted_gain(ends), ends.loc[ends["weight_decay"] > 0, "weight_decay"]
    if not math.isfinite(strength) or decays.empty:
        return pd.DataFrame({"weight_decay": [], "predicted": []}, dtype=float)
    critical = critical_weight_decay(strength, **_model(ends))
    inside = np.geomspace(decays.min() / 2, critical * (1 - 1e-9), 200)
    beyond = np.array([critical, max(2 * decays.max(), 1.5 * critical)])
    grid = np.concatenate([inside, beyond])
    return pd.DataFrame({"weight_decay": grid, "predicted": [equilibrium_norm(decay, strength, **_model(ends)) for decay in grid]})


def prediction_table(ends: pd.DataFrame) -> pd.DataFrame:
    """What `over_weight_decay` shows: the curve, then the runs with final and fn_star."""
    runs = ends.loc[ends["weight_decay"] > 0, ["weight_decay", "lr", "seed", "predicted", "final", "fn_star", "reference"]]
    return pd.concat([curve(ends), runs], ignore_index=True)


def over_weight_decay(ends: pd.DataFrame) -> Figure:
    """The predicted equilibrium over the weight decay, with each run's final norm and, a little to its right, its fn*."""
    line, runs = curve(ends), ends[ends["weight_decay"] > 0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, 4.2), layout="constrained")
        ax = figure.subplots()
        ax.plot(line["weight_decay"], line["predicted"], color="0.3")
        ax.plot(runs["weight_decay"], runs["final"], "o", color=CYCLE[1], ms=7)
        ax.plot(1.12 * runs["weight_decay"], runs["fn_star"], "D", mfc="none", mec=CYCLE[5], ms=8, mew=1.5)
        chosen = runs[runs["reference"]]
        ax.plot(chosen["weight_decay"], chosen["final"], "o", mfc="none", mec="0.2", ms=12)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])
        ax.set_xlabel("weight decay λ")
        ax.set_ylabel("feature norm fn")
        handles = [
            Line2D([], [], color="0.3", label="equilibrium, predicted"),
            Line2D([], [], ls="", marker="o", color=CYCLE[1], ms=7, label="at the end of the run"),
            Line2D([], [], ls="", marker="D", mfc="none", mec=CYCLE[5], ms=8, mew=1.5, label="fn*, at $T_{NC}$"),
            Line2D([], [], ls="", marker="o", mfc="none", mec="0.2", ms=12, label="gives the gain"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def over_levels(found: pd.DataFrame, ends: pd.DataFrame) -> Figure:
    """fn at each level of NC1, over the run's final norm: a line for each run, a colour for each setting, as it has among all `ends`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(FIGURE_WIDTH, 4.2), layout="constrained")
        ax = figure.subplots()
        colors = {setting: CYCLE[i % len(CYCLE)] for i, setting in enumerate(ends["setting"].unique())}
        for (setting, _), run in found.groupby(["setting", "key"], sort=False):
            ax.plot(run["level"], run["share"], "o-", color=colors[setting])
        ax.axvline(THRESHOLD, color="0.4", lw=1.2, ls=":")
        ax.axhline(1, color="0.4", lw=1)
        ax.set_xscale("log")
        ax.set_xlim(1.3 * max(LEVELS), min(LEVELS) / 1.3)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel("NC1 falls below (collapse to the right)")
        ax.set_ylabel("fn then / fn at the end")
        if found.empty:
            ax.text(0.5, 0.5, "no run fell below any of them", transform=ax.transAxes, ha="center", color="0.35")
        shown = found["setting"].unique()
        handles = [Line2D([], [], color=color, marker="o", label=setting) for setting, color in colors.items() if setting in shown]
        handles.append(Line2D([], [], color="0.4", ls=":", label="threshold of $T_{NC}$"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def balance_table(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a numbered table, a run each: the squared norm of each layer at the end, and the largest over the least."""
    ends, layers = last_epoch(table), _layers(table)
    names = [f"$W_{name}$" if name.isdigit() else "$W$" for name in (layer.removeprefix(_LAYER) for layer in layers)]
    numbers = ends[[*layers, "imbalance"]].map(_any_size).to_numpy().tolist()
    texts = [[setting, str(seed), *cells] for setting, seed, cells in zip(ends["setting"], ends["seed"], numbers)]
    return ["Run", "Seed", *names, "Largest / least"], texts


def _any_size(value: float) -> str:
    """Two decimals where they say something: `52.74`, `115,377`, `4·10⁻⁷`."""
    return power(float(f"{value:.1g}")) if 0 < value < 0.01 else number(value, 2 if value < 1000 else 0)


def _first_least(ends: pd.DataFrame) -> pd.Series:
    """Whether the squared norm of the first layer is the least of all, as it is at rest."""
    layers = ends[_layers(ends)]
    return layers.iloc[:, 0] <= layers.min(axis=1)


def _is_reference(table: pd.DataFrame) -> pd.Series:
    return (table["weight_decay"] == BASELINE.optimizer.weight_decay) & (table["lr"] == BASELINE.optimizer.lr)


def _balanced(table: pd.DataFrame) -> str:
    ends = last_epoch(table).dropna(subset="imbalance").sort_values("imbalance")
    if ends.empty:
        return "No run ended with finite weights in all its layers: whether they are balanced is not known."
    least, most = ends.iloc[0], ends.iloc[-1]
    text = f"At the end the largest squared norm of a layer is {_any_size(least['imbalance'])} times the least at {least['setting']}"
    text += f" and {_any_size(most['imbalance'])} times at {most['setting']}" if len(ends) > 1 else ""
    after = table[table["epoch"] > table["switch"]].groupby("key", sort=False)["imbalance"].first().loc[ends["key"]]
    text += f"; right after the switch it was {' to '.join(dict.fromkeys(map(_any_size, (after.min(), after.max()))))} times the least."
    rests = _first_least(ends)
    text += f" The first layer is the least in {rests.sum()} of {counted(len(ends), 'run')}"
    given = rests[_is_reference(ends)]
    text += f", and in {given.sum()} of the {len(given)} that give the gain." if len(given) else "."
    lost = table["key"].nunique() - len(ends)
    if not lost:
        return text
    count = "counts" if lost == 1 else "count"
    return f"{text} {counted(lost, 'run').capitalize()} diverged or ended with a vanished layer, and {count} for neither."


def rows(ends: pd.DataFrame) -> list[list[str]]:
    """Rows for a numbered table, a run each: setting, seed, predicted and final norm, drift, fn*, that over the final norm, final NC1."""
    return [
        [
            run["setting"],
            str(run["seed"]),
            number(run["predicted"]) + (" (given)" if run["reference"] and math.isfinite(run["predicted"]) else ""),
            number(run["final"]),
            "vanished" if run["vanished"] else percent(run["drift"], sign=True),
            number(run["fn_star"]),
            number(run["ratio"], 2),
            power(float(f"{run['final_nc1']:.1g}")) if math.isfinite(run["final_nc1"]) else MISSING,
        ]
        for run in ends.to_dict("records")
    ]


def texts(table: pd.DataFrame, ends: pd.DataFrame, levels: pd.DataFrame) -> dict[str, str]:
    """The chapter's sentences, to glue; table: of `labelled`.

    Names: reference, gain, critical, turning, foretold, rates, compared, balanced, star, own_levels, drifts.
    """
    strength, optimizer = fitted_gain(ends), BASELINE.optimizer
    known = math.isfinite(strength)
    turns = {"critical": critical_weight_decay, "turning": turning_weight_decay}
    return {
        "reference": f"run{'s' if ends['reference'].sum() > 1 else ''} at λ = {power(optimizer.weight_decay)}, rate {power(optimizer.lr)},",
        "gain": number(strength, 2) if known else f"{MISSING} (no run at the reference fits its data)",
        **{name: power(float(f"{at(strength, **_model(ends)):.2g}")) if known else MISSING for name, at in turns.items()},
        "foretold": _foretold(ends),
        "rates": _rates(ends),
        "compared": _unrested(table) + _compared(ends),
        "balanced": _balanced(table),
        "star": _star(ends),
        "own_levels": _own_levels(levels),
        "drifts": _drifts(ends),
    }


def _foretold(ends: pd.DataFrame) -> str:
    ended = ends["vanished"] | ends["final"].notna()
    others = ends[~ends["reference"] & (ends["lr"] == BASELINE.optimizer.lr) & ended].dropna(subset="predicted")
    if others.empty:
        return "There is no second weight decay whose norm could be foretold."
    parts = []
    for decay, runs in others.groupby("weight_decay"):
        foretold, kept = runs["predicted"].iloc[0], runs[~runs["vanished"]]
        lost = len(runs) - len(kept)
        told = [f"at λ = {power(decay)}, {number(foretold)} is foretold"]
        if lost:
            told.append("all features vanish" if kept.empty else f"the features vanish in {lost} of {counted(len(runs), 'run')}")
        if len(kept):
            measured = estimate(kept["final"]).within(0)
            off = f", {percent(round(measured.mean / foretold - 1, 3), sign=True)} from it" if foretold else ""
            told.append(f"{with_interval(measured)} is measured{' in the rest' if lost else ''}{off}")
        parts.append(listing(told))
    return f"{'; '.join(parts)[0].upper()}{'; '.join(parts)[1:]}."


def _rates(ends: pd.DataFrame) -> str:
    same = ends[ends["weight_decay"] == BASELINE.optimizer.weight_decay].dropna(subset="final")
    norms = {lr: estimate(runs["final"]).within(0) for lr, runs in same.groupby("lr")}
    if len(norms) < 2:
        return "Only one learning rate was trained at the reference's weight decay."
    least, most = (choose(norms.values(), key=lambda norm: norm.mean) for choose in (min, max))
    apart = most.mean / least.mean - 1
    told = f"the final norm is {listing(f'{with_interval(norm)} at rate {power(lr)}' for lr, norm in norms.items())}"
    close = "equal to within" if apart < NEAR else "apart by"
    overlap = ", with overlapping intervals" if least.high > most.low else ""
    return f"Over learning rates {told}: {close} {percent(round(apart, 3))}{overlap}, where the model has no rate at all."


def _unrested(table: pd.DataFrame) -> str:
    """What a reader has to know first where no run is at rest."""
    ends = last_epoch(table).dropna(subset="imbalance")
    if ends.empty or _first_least(ends).any():
        return ""
    return (
        "In none of these runs is the first layer the least, as it is at rest, the gain's own included: what follows compares stages of "
        "training with an equilibrium, and does not test it. "
    )


def _compared(ends: pd.DataFrame) -> str:
    """What became of the prediction: the norms foretold, the features that vanished against it, and the way of the norm with λ."""
    told = ends[ends["vanished"] | (ends["final"] > 0) & ~ends["diverged"]].dropna(subset="predicted")
    if told["reference"].all():
        return "No run under another setting than the gain's has an end that was foretold."
    within, beyond = (told[there] for there in (told["predicted"] > 0, told["predicted"] == 0))
    kept = within[~within["vanished"]]
    off = (kept["final"] / kept["predicted"] - 1)[~kept["reference"]]
    span = " to ".join(dict.fromkeys(percent(round(apart, 3), sign=True) for apart in (off.min(), off.max())))
    sentences = [
        f"Of the runs that did not give the gain, {len(off)} kept features where the model has some: "
        f"the norm ends {span} from what is foretold."
        if len(off)
        else "No run but those that give the gain kept features where the model has some.",
        _lost(within, turning_weight_decay(fitted_gain(ends), **_model(ends))),
    ]
    if len(beyond):
        gone = f"{beyond['vanished'].sum()} of {counted(len(beyond), 'run')}"
        sentences.append(f"Beyond the critical weight decay, where it has none, they vanish in {gone}.")
    return " ".join([*sentences, _way(kept)])


def _lost(within: pd.DataFrame, lowest: float) -> str:
    """Where features vanished below the critical weight decay; `lowest`: where the collapsed minimum ceases to be the lower of the two."""
    lost = {decay: runs["vanished"] for decay, runs in within.groupby("weight_decay") if runs["vanished"].any()}
    if not lost:
        return "Nowhere do features vanish where the model has a collapsed minimum."
    counts = listing(f"{gone.sum()} of {counted(len(gone), 'run')} at λ = {power(decay)}" for decay, gone in lost.items())
    deeper = [power(decay) for decay in lost if decay < lowest]
    which = f", the lower of the two{'' if len(deeper) == len(lost) else f' at λ = {listing(deeper)}'}" if deeper else ""
    return f"Features vanish in {counts}, although the model has a collapsed minimum there{which}."


def _way(kept: pd.DataFrame) -> str:
    """Whether the norm of the features that are left goes with λ, at the reference's rate, where the curve goes."""
    same = kept[kept["lr"] == BASELINE.optimizer.lr]
    given = same[same["reference"]]
    moves = {
        decay: (runs["predicted"].iloc[0] / given["predicted"].iloc[0] - 1, relative_effect(runs["final"], given["final"]))
        for decay, runs in same[~same["reference"]].groupby("weight_decay")
        if len(given)
    }
    if not moves:
        return "Whether norms go with λ where the curve goes is open: at the reference's rate no second weight decay left features."
    told = "; ".join(
        f"at λ = {power(decay)} the curve changes by {percent(round(curve, 3), sign=True)}, "
        f"the norm by {percent_with_interval(norm, sign=True)}"
        for decay, (curve, norm) in moves.items()
    )
    shown = {decay: curve * norm.mean > 0 for decay, (curve, norm) in moves.items() if norm.low > 0 or norm.high < 0}
    sides = {"the norm goes with the curve": True, "the norm goes against the curve": False}
    ways = {words: [decay for decay in shown if shown[decay] == along] for words, along in sides.items()}
    ways["it is not decided which way the norm goes"] = [decay for decay in moves if decay not in shown]
    known = {decay: norm.low <= curve <= norm.high for decay, (curve, norm) in moves.items() if math.isfinite(norm.low)}
    verbs = {"includes": True, "excludes": False}
    seeds = {f"{verb} the curve's change": [decay for decay in known if known[decay] == inside] for verb, inside in verbs.items()}
    goes, interval = (
        listing(f"{words} at λ = {listing(map(power, decays))}" for words, decays in found.items() if decays) for found in (ways, seeds)
    )
    return f"From the reference, {told}. So {goes}; " + (f"its interval {interval}." if known else "there is no interval.")


def _star(ends: pd.DataFrame) -> str:
    ratios = ends["ratio"].dropna()
    if ratios.empty:
        return "No run collapsed: there is no fn* to set beside a final norm."
    above, below = int((ratios > 1 + NEAR).sum()), int((ratios < 1 - NEAR).sum())
    kinds = {"above it": above, "below it": below, "at it": len(ratios) - above - below}
    counts = listing(f"{count} {'lies' if count == 1 else 'lie'} {words}" for words, count in kinds.items() if count)
    return (
        f"fn* is {number(ratios.min(), 2)} to {number(ratios.max(), 2)} times the norm at the end of the run; "
        f"of {counted(len(ratios), 'run')} {counts} (to within {percent(NEAR)})."
    )


def _own_levels(levels: pd.DataFrame) -> str:
    at = levels.groupby("level")["share"].agg(["mean", "size"]).sort_index(ascending=False)
    if len(at) < 2:
        return "Fewer than two of these levels were passed."
    told = listing(f"{number(row['mean'], 2)} at NC1 = {level:g} ({counted(int(row['size']), 'run')})" for level, row in at.iterrows())
    return f"In the mean of the runs that get there the norm is, in units of the final one, {told}. {_scatter(levels)}"


def _scatter(levels: pd.DataFrame) -> str:
    """Coefficients of variation of the norm at each level and at the end, over the same runs at all of them."""
    norms = levels.pivot(index="key", columns="level", values="norm").sort_index(axis=1, ascending=False)
    final = levels.assign(final=levels["norm"] / levels["share"]).groupby("key")["final"].first()
    passed = norms.join(final).dropna()
    if len(passed) < 2:
        return "Fewer than two runs pass all of them, so that scatter cannot be compared."
    settings = levels.loc[levels["key"].isin(passed.index), "setting"].nunique()
    scatter = [percent(round(passed[column].std() / passed[column].mean(), 3)) for column in passed]
    told = listing([*(f"{share} at {level:g}" for share, level in zip(scatter, norms)), f"{scatter[-1]} at the end"])
    which = f"the {len(passed)} runs, of {counted(settings, 'setting')}, that pass all of them"
    return f"Over {which}, the coefficient of variation of the norm is {told}."


def _drifts(ends: pd.DataFrame) -> str:
    known = ends.loc[~ends["vanished"], "drift"].dropna()
    if known.empty:
        return f"The runs are too short to say whether the norm still moves: less than {TAIL} epochs after the switch."
    ends_of_it = dict.fromkeys(percent(round(drift, 3), sign=True) for drift in (known.min(), known.max()))
    where = " where the features have not vanished" if ends["vanished"].any() else ""
    return f"Over the last {TAIL} epochs the norm changed by {' to '.join(ends_of_it)}{where}."
