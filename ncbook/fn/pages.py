"""From tables to English words: numbers, intervals, the scale of the runs, and the sentences that several chapters share.

Numbers are those of `ncbook.pages`, written the English way. No sentence here states a result that it was not given.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from ncbook import pages
from ncbook.analysis import Estimate
from ncbook.fn import paper
from ncbook.fn.onset import summary
from ncbook.spec import DataSpec, ModelSpec, OptimizerSpec, RunSpec, SwitchSpec
from ncbook.store import Run

MISSING = "n/a"
ONE_SEED = "one seed, no interval"
NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "digits": "digits",
    "mlp": "MLP",
    "resnet20": "ResNet-20",
    "relu": "ReLU",
    "tanh": "Tanh",
    "gelu": "GELU",
    "sgd": "SGD",
    "adam": "Adam",
}
"""Display names of data, models, activations and optimisers."""
_COPIES = {
    "cifar10 (jpeg q75)": "CIFAR-10 in a lossy copy, JPEG images of quality 75",
    "cifar10 (images)": "CIFAR-10 in a copy as image files",
}
"""What a run's provenance calls data that are not the original files."""
_ENGLISH = str.maketrans(",.;", ".,,")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """`1,234.568` with a true minus; `n/a` if it is not finite."""
    return pages.number(value, digits, sign=sign).translate(_ENGLISH) if math.isfinite(value) else MISSING


def percent(share: float, *, sign: bool = False) -> str:
    """`6.4 %`, `+458 %`; `n/a` if it is not finite."""
    if not math.isfinite(share):
        return MISSING
    return ("+" if sign and share > 0 else "") + pages.percent(share).translate(_ENGLISH)


def power(value: float) -> str:
    """A rate or a weight decay: `10⁻⁴`, `3·10⁻⁵`, `0`; from 0.01 up as it is, `0.05`."""
    if value == 0 or value >= 0.01:
        return np.format_float_positional(value, trim="-")
    mantissa, exponent = np.format_float_scientific(value, trim="-", exp_digits=1).split("e")
    return ("" if mantissa == "1" else f"{mantissa}·") + "10" + exponent.translate(_SUPERSCRIPT)


def listing(items: Iterable) -> str:
    """`a, b and c`."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def counted(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number(count, 0)} {noun if count == 1 else noun + 's'}"


def name(identifier: str) -> str:
    """How data, a model, an activation or an optimiser is called on the page."""
    return NAMES.get(identifier, identifier)


def with_interval(value: Estimate, digits: int = 3, *, sign: bool = False) -> str:
    """`0.153 [0.140, 0.166]`; the mean alone where there is no interval, `n/a` without a value."""
    return pages.with_interval(value, digits, sign=sign).translate(_ENGLISH) if math.isfinite(value.mean) else MISSING


def percent_with_interval(value: Estimate, *, sign: bool = False) -> str:
    """A share as `6.4 % [4.3 %, 12.5 %]`; an upper end that is infinite is said to be none, one of more than `pages.READABLE` per cent only
    to be beyond that."""
    if not math.isfinite(value.low):
        return percent(value.mean, sign=sign)
    most = pages.READABLE / 100
    high = "no bound" if math.isinf(value.high) else percent(value.high, sign=sign) if value.high <= most else f"> {percent(most)}"
    return f"{percent(value.mean, sign=sign)} [{percent(value.low, sign=sign)}, {high}]"


def p_value(p: float) -> str:
    """`p = 0.034`, `p < 0.001`; `no p value` if it is not finite."""
    if not math.isfinite(p):
        return "no p value"
    return "p < 0.001" if p < 0.001 else f"p = {number(p)}"


def column_estimate(row: Mapping[str, Any], column: str) -> Estimate:
    """The estimate that a row (of a table, or a mapping) keeps as `column`_mean, _low, _high, _n; `column` "": as mean, low, high, n."""
    return Estimate(*(row[f"{column}_{field}" if column else field] for field in Estimate._fields))


def seeds_text(seeds: int) -> str:
    """What an estimate over so many seeds is."""
    return ONE_SEED if seeds == 1 else f"mean of {seeds} seeds, 95 % interval (Student's t)"


def span(numbers: Iterable[int]) -> str:
    """From the least to the greatest: `53 to 55`, `300`."""
    found = sorted(set(numbers))
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"


def last_epochs(onsets: pd.DataFrame) -> str:
    """When runs were last observed: `epoch 300`, `their last epochs, 53 to 55`."""
    last = onsets["last_epoch"]
    return ("epoch " if last.nunique() == 1 else "their last epochs, ") + span(last)


def censored_text(onsets: pd.DataFrame, threshold: float) -> str:
    """How many of the runs of `onset.onsets` crossed, and what the others were: a clause without a full stop."""
    runs, censored, gone = len(onsets), onsets["censored"], onsets["censored"] & onsets["one_point"]
    crossed = int((~censored).sum())
    if crossed == runs:
        return f"NC1 fell below {threshold:g} in {'the only run' if runs == 1 else f'all {runs} runs'}"
    if runs == 1:
        end = "it diverged" if onsets["diverged"].any() else "all its features had become one point" if gone.any() else "it ended"
        return f"NC1 stayed above {threshold:g} in the only run, until {end} at {last_epochs(onsets)}"
    text = f"NC1 fell below {threshold:g} in {crossed or 'none'} of {counted(runs, 'run')}"
    if (stayed := censored & ~gone).any():
        text += f"; {stayed.sum()} stayed above it until {last_epochs(onsets[stayed])}"
    if diverged := int((censored & onsets["diverged"]).sum()):
        text += f", {diverged} of them diverging"
    if gone.any():
        text += f"; in {gone.sum()} all features had become one point, for which NC1 is undefined, at {last_epochs(onsets[gone])}"
    return text


def crossed_text(onsets: pd.DataFrame, threshold: float) -> str:
    """`censored_text`, and in how many runs the crossing is only an upper bound, or not the last word."""
    text = censored_text(onsets, threshold)
    if at_start := int(onsets["at_start"].sum()):
        text += f"; in {counted(at_start, 'run')} it lay below already at the first record after the switch"
    if returned := int((~onsets["stayed_below"]).sum()):
        text += f"; in {counted(returned, 'run')} NC1 rose above it again"
    return text


def onset_rows(onsets: pd.DataFrame, by: str, label: Callable[[Any], str] = str) -> list[list[str]]:
    """Rows for a `pages.numbered_table`: level of `by`, runs that crossed, T_NC, epochs since the switch, fn*.

    Estimates are over the runs that crossed. Where others did not, times say ≥ and have no interval: the onset of those is later than
    anything in the mean.
    Where none did, T_NC says > and when they were last observed, and when the features of those that this ended became one point.
    """
    rows = []
    for row in summary(onsets, [by]).to_dict("records"):
        cell = onsets[onsets[by].isna() if pd.isna(row[by]) else onsets[by] == row[by]]
        found = {column: column_estimate(row, column) for column in ("T_NC", "since_switch")}
        times = [f"≥ {number(value.mean, 1)}" if row["biased"] else with_interval(value, 1) for value in found.values()]
        if row["censored"] == row["runs"]:
            ends = [("> ", cell[~cell["one_point"]]), ("one point at ", cell[cell["one_point"]])]
            times = [", ".join(words + span(runs["last_epoch"]) for words, runs in ends if len(runs)), MISSING]
        crossed = f"{row['runs'] - row['censored']} of {row['runs']}"
        rows.append([label(row[by]), crossed, *times, with_interval(column_estimate(row, "fn_star"))])
    return rows


def _of(runs: Sequence[Run], value: Callable[[RunSpec], Any]) -> list:
    """The distinct values of something of the specs, sorted."""
    return sorted({value(run.spec) for run in runs})


def departures(runs: Sequence[Run]) -> list[str]:
    """In what the runs are less than, or other than, the paper's; empty if in nothing that the paper states.

    The width of ResNet-20 it does not state: there the published one counts.
    """
    found = []
    for data, subset in sorted({(run.spec.data.name, run.spec.data.subset or 0) for run in runs}):
        if data not in paper.IMAGES:
            found.append(f"{name(data)}, which the paper does not use")
        elif subset and subset < paper.IMAGES[data]:
            found.append(f"{number(subset, 0)} of the {number(paper.IMAGES[data], 0)} training images of {name(data)}")
    found += [copy for source, copy in _COPIES.items() if source in {run.provenance["data"] for run in runs}]
    mlps, resnets = ([run for run in runs if run.spec.model.name == model] for model in ("mlp", "resnet20"))
    switches = _of(mlps, lambda spec: spec.switch.epoch)
    if mlps and switches != [paper.SWITCH]:
        found.append(f"cross-entropy until epoch {listing(switches)}, where the paper's MLP on MNIST had it until {paper.SWITCH}")
    if resnets and (widths := _of(resnets, lambda spec: spec.model.width)) != [paper.RESNET_WIDTH]:
        found.append(f"ResNet-20 of width {listing(widths)}, first published with {paper.RESNET_WIDTH}, the paper giving none")
    onset, resnet_onset = paper.SINCE_SWITCH.value, paper.RESNET["T_NC"].value
    if mlps and (most := max(run.spec.epochs - run.spec.switch.epoch for run in mlps)) < onset:
        found.append(f"at most {counted(most, 'epoch')} after the switch, where the paper's MLP on MNIST took {onset} to collapse")
    if resnets and (most := max(run.spec.epochs for run in resnets)) < resnet_onset:
        found.append(f"at most {counted(most, 'epoch')} of ResNet-20, where the paper's took {resnet_onset} to collapse on CIFAR-10")
    if (seeds := len(_of(runs, lambda spec: spec.seed))) < paper.SEEDS:
        found.append(f"{counted(seeds, 'seed')}, where the paper has {paper.SEEDS} in the experiments of which it says how many")
    return found


def scale_box(runs: Sequence[Run]) -> HTML:
    """What the page's numbers come from: scale against the paper's, seeds, hardware, precision, training time."""
    less = departures(runs)
    seeds = _of(runs, lambda spec: spec.seed)
    consecutive = len(seeds) > 4 and seeds == list(range(seeds[0], seeds[-1] + 1))
    facts = [
        f"{counted(len(runs), 'network')} trained for {span(int(run.epochs[-1]) for run in runs)} epochs",
        f"{'seed' if len(seeds) == 1 else 'seeds'} {span(seeds) if consecutive else listing(seeds)} (the paper, where it says: {paper.SEEDS} seeds)",
        "hardware: " + listing(sorted({run.provenance["hardware"] for run in runs})),
        "precision: " + listing(sorted({run.provenance["dtype"] for run in runs})),
        "training time in all: " + pages.duration_text(sum(run.provenance["seconds"] for run in runs)),
    ]
    if lost := sum(not np.isfinite(run.metrics["train_loss"][-1]) for run in runs):
        facts.append(f"runs that diverged: {lost}")
    sentences = [f"Other than in the paper: {'; '.join(less)}."] if less else []
    sentences.append("; ".join(facts) + ".")
    body = "".join(f"<p>{html.escape(sentence[0].upper() + sentence[1:])}</p>" for sentence in sentences)
    title = "Reduced scale" if less else "The paper's scale"
    return HTML(f'<div class="admonition note"><p class="admonition-title">{title}</p>{body}</div>')


def limit_texts(runs: Sequence[Run]) -> dict[str, str]:
    """What the number of seeds and the scale leave undecided: two sentences, `seed_limits` and `scale_limits`."""
    less, seeds = departures(runs), len(_of(runs, lambda spec: spec.seed))
    return {
        "seed_limits": (
            "Every point comes from one seed: no difference has an interval, and no sign is decided."
            if seeds == 1
            else f"The intervals rest on {seeds} seeds, that is on {seeds} initialisations and orders of the images."
        ),
        "scale_limits": (
            f"The scale is not the paper's ({'; '.join(less)}): where results differ, this may be why."
            if less
            else "As far as the paper gives them, images and switch are its own; there are no fewer seeds than it names, and runs may last "
            "as long as its own took to collapse. What it leaves open, the length of its runs too, was chosen for this book."
        ),
    }


def optimizer_text(optimizer: OptimizerSpec) -> str:
    """`SGD, rate 0.05, momentum 0.9`."""
    momentum = f", momentum {optimizer.momentum:g}" if optimizer.momentum else ""
    return f"{name(optimizer.name)}, rate {power(optimizer.lr)}{momentum}"


def _models_text(models: Iterable[ModelSpec]) -> str:
    """`MLP with 5 hidden layers of 64 and 256 units and ResNet-20 of width 4`."""
    widths: dict[tuple[str, int], set[int]] = {}
    for model in models:
        widths.setdefault((model.name, model.depth or 0), set()).add(model.width)
    texts = []
    for (model, depth), found in sorted(widths.items()):
        told = listing(sorted(found))
        texts.append(f"MLP with {counted(depth, 'hidden layer')} of {told} units" if model == "mlp" else f"{name(model)} of width {told}")
    return listing(texts)


def _data_text(data: DataSpec) -> str:
    return f"{number(data.subset, 0) if data.subset else 'all'} images of {name(data.name)}"


def _loss_text(switch: SwitchSpec) -> str:
    return f"{switch.reduction} over the classes, optimiser state {switch.optimizer_state}"


def setting_texts(runs: Sequence[Run]) -> dict[str, str]:
    """The settings that the runs themselves carry, as texts to glue.

    data (`12,000 images of MNIST`), model, activation, optimizer, weight_decay, batch_size, switch, loss (reduction, optimiser state),
    epochs (the most that were trained), seeds (`seeds_text`), seed_count (`3 seeds`).
    """
    seeds = len(_of(runs, lambda spec: spec.seed))
    return {
        "data": listing(_of(runs, lambda spec: _data_text(spec.data))),
        "model": _models_text(run.spec.model for run in runs),
        "activation": listing(_of(runs, lambda spec: name(spec.model.activation))),
        "optimizer": "; ".join(_of(runs, lambda spec: optimizer_text(spec.optimizer))),
        "weight_decay": listing(map(power, _of(runs, lambda spec: spec.optimizer.weight_decay))),
        "batch_size": listing(_of(runs, lambda spec: spec.batch_size)),
        "switch": listing(_of(runs, lambda spec: spec.switch.epoch)),
        "loss": "; ".join(_of(runs, lambda spec: _loss_text(spec.switch))),
        "epochs": listing(_of(runs, lambda spec: spec.epochs)),
        "seeds": seeds_text(seeds),
        "seed_count": counted(seeds, "seed"),
    }
