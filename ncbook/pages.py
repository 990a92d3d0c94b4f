"""From tables to words: numbers written the Italian way, sentences chosen by the numbers themselves, and their gluing into pages.

No sentence here states a result: each is put together from the estimates it is given, and says how many seeds they rest on.
"""

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from myst_nb import glue

from ncbook import analysis
from ncbook.analysis import Estimate
from ncbook.plots import name
from ncbook.spec import OPTIMIZERS
from ncbook.store import Run

MISSING = "n.d."
ONE_SEED = "un solo seme, nessun intervallo"
READABLE = 10_000
"""The largest upper end of an interval that is printed around a value below it."""


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number with decimal comma, points between thousands and a true minus; ∞ as such, `n.d.` where there is none."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.translate(str.maketrans(",.-", ".,−"))


def _exact(value: float) -> str:
    """All the digits of a setting, and no more."""
    return np.format_float_positional(value, trim="-").replace(".", ",")


def percent(share: float) -> str:
    """A share as a percentage, below 100 % with at most one decimal, from there on without; `n.d.` if it is not finite."""
    if not math.isfinite(share):
        return MISSING
    whole = abs(share) >= 1 or math.isclose(100 * share, round(100 * share))
    return number(100 * share, 0 if whole else 1) + " %"


def with_article(percentage: str) -> str:
    """A percentage after its article, as it is read aloud: `il 7 %`, `l’8 %`, `l’11 %`, `lo 0,5 %`."""
    whole = percentage.split()[0].split(",")[0]
    if whole in ("1", "11") or whole.startswith("8"):
        return f"l’{percentage}"
    return f"{'lo' if whole == '0' else 'il'} {percentage}"


def listing(items: Iterable) -> str:
    """`a, b e c`."""
    texts = [str(item) for item in items]
    return " e ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def with_interval(value: Estimate, digits: int = 3, *, sign: bool = False) -> str:
    """`0,153 [0,140; 0,166]`; the mean alone where there is no interval. Small values get more than `digits` places: two that count.

    No places: whole numbers. Of an end beyond `READABLE` only that is said: few runs can give one of millions.
    """
    if digits and (size := max((abs(part) for part in value[:3] if math.isfinite(part)), default=0)):
        digits = min(max(digits, 1 - math.floor(math.log10(size))), 6)
    mean = number(value.mean, digits, sign=sign)
    if not math.isfinite(value.low):
        return mean
    beyond = abs(value.mean) < READABLE < value.high < math.inf
    high = f"> {number(READABLE, 0)}" if beyond else number(value.high, digits, sign=sign)
    return f"{mean} [{number(value.low, digits, sign=sign)}; {high}]"


def seeds_text(counts: Iterable[int]) -> str:
    """What numbers rest on, given how many seeds each of them has."""
    counts = [int(count) for count in counts if count]
    if not counts:
        return "nessuna misura"
    least, most = min(counts), max(counts)
    if most == 1:
        return ONE_SEED
    if least == most:
        return f"media di {most} semi, intervallo al 95 % (t di Student)"
    return f"media di {least}–{most} semi, intervallo al 95 % (t di Student) dove i semi sono almeno due"


def sign_text(value: Estimate) -> str:
    """What the interval of a difference says about its sign."""
    if value.n < 2:
        return ONE_SEED if value.n else MISSING
    if value.low > 0:
        return "intervallo tutto sopra lo zero"
    if value.high < 0:
        return "intervallo tutto sotto lo zero"
    return "intervallo che contiene lo zero"


def curve_name(model: str, optimizer: str) -> str:
    return f"{name(model)} con {name(optimizer)}"


def differences_text(named: Sequence[tuple[str, Estimate]]) -> str:
    """Each difference by its name, with its sign; that there is but one seed is said once for all."""
    if all(value.n < 2 for _, value in named):
        return "; ".join(f"{name}: {with_interval(value, sign=True)}" for name, value in named) + f" ({ONE_SEED})"
    return "; ".join(f"{name}: {with_interval(value, sign=True)}, {sign_text(value)}" for name, value in named)


def tally(values: Sequence[Estimate]) -> str:
    """How many of several differences have which sign, by their intervals: `2 sopra lo zero, 1 indistinguibile da zero`."""
    if not values:
        return "nessuna differenza misurata"
    if all(value.n < 2 for value in values):
        return f"{sum(value.mean > 0 for value in values)} positive su {len(values)} ({ONE_SEED})"
    words = {
        "intervallo tutto sopra lo zero": "sopra lo zero",
        "intervallo tutto sotto lo zero": "sotto lo zero",
        "intervallo che contiene lo zero": "con lo zero nell'intervallo",
    }
    counts = Counter(words.get(sign_text(value), "senza intervallo") for value in values)
    return listing(f"{count} {words}" for words, count in counts.items()) + f" (su {len(values)})"


def departures(last: pd.DataFrame, experiment: str) -> list[str]:
    """In what the runs are less than, or other than, the report's own; empty if in nothing. Some that go on for longer are no departure."""
    found = []
    epochs, report_epochs = sorted(set(last["epochs"])), analysis.REPORT_EPOCHS[experiment]
    if epochs[0] != report_epochs:
        found.append(f"{listing(number(e, 0) for e in epochs)} epoche invece delle {number(report_epochs, 0)} del report")
    noise = sorted(set(last["label_noise"]))
    if noise != [analysis.REPORT_LABEL_NOISE]:
        found.append(f"rumore sulle etichette {listing(map(percent, noise))} invece del {percent(analysis.REPORT_LABEL_NOISE)}")
    report = analysis.report_configurations(experiment)
    theirs, ours = ({*table[report.columns].itertuples(index=False, name=None)} for table in (report, last))
    if absent := len(theirs - ours):
        found.append(f"{absent} delle {len(theirs)} configurazioni del report non eseguite")
    return found


def duration_text(seconds: float) -> str:
    """A duration in hours and minutes, or in seconds if it is shorter, which both languages write alike."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{number(seconds, 0)} s"


def scale_box(last: pd.DataFrame, runs: Sequence[Run], experiment: str) -> HTML:
    """What the page's numbers come from: scale against the report's, seeds, hardware, precision, training time.

    last: `analysis.last_epoch` of the table of `runs`.
    """
    less = departures(last, experiment)
    title = "Scala ridotta" if less else "Scala del report"
    seeds = sorted(set(last["seed"]))
    theirs = f"un seme, {analysis.REPORT_COMPARED_SEEDS} nel confronto fra semi" if experiment == "exp4" else "un seme solo"
    facts = [
        f"{number(len(last), 0)} reti addestrate per {listing(number(e, 0) for e in sorted(set(last['epochs'])))} epoche",
        f"{'seme' if len(seeds) == 1 else 'semi'} {listing(seeds)} (nel report: {theirs})",
        "hardware: " + listing(sorted({run.provenance["hardware"] for run in runs})),
        "precisione: " + listing(sorted({run.provenance["dtype"] for run in runs})),
        "tempo di addestramento in tutto: " + duration_text(sum(run.provenance["seconds"] for run in runs)),
    ]
    if lost := analysis.diverged(last):
        facts.append(f"addestramenti divergenti, esclusi dalle medie: {lost}")
    sentences = [f"Differenze dal report: {'; '.join(less)}."] if less else []
    sentences.append("; ".join(facts) + ".")
    body = "".join(f"<p>{html.escape(sentence[0].upper() + sentence[1:])}</p>" for sentence in sentences)
    return HTML(f'<div class="admonition note"><p class="admonition-title">{title}</p>{body}</div>')


def report_label(experiment: str) -> str:
    """What the report's points are called in a legend."""
    return f"report ({analysis.REPORT_SEEDS} seme, {number(analysis.REPORT_EPOCHS[experiment], 0)} epoche)"


def _seed_limits(last: pd.DataFrame) -> str:
    """How many seeds intervals rest on, and how many where some networks are trained for longer than the others."""
    seeds, shortest = last["seed"].nunique(), last["epochs"].min()
    if seeds == 1:
        return "Ogni punto misurato viene da un solo seme: nessuna differenza ha un intervallo, e nessun segno è deciso."
    text, longer = f"Gli intervalli poggiano su {seeds} semi", last[last["epochs"] > shortest]["seed"].nunique()
    if not 0 < longer < seeds:
        return f"{text}, cioè su {seeds} inizializzazioni e ordini di presentazione dei dati."
    beyond = f"su {longer}: con così pochi semi sono molto larghi" if longer > 1 else "il seme è uno solo, e non ve ne sono"
    return f"{text}, oltre l’epoca {number(shortest, 0)} {beyond}."


def limit_texts(last: pd.DataFrame, experiment: str) -> dict[str, str]:
    """What the number of seeds and the scale leave undecided, as two sentences."""
    less = departures(last, experiment)
    return {
        "seed_limits": _seed_limits(last),
        "scale_limits": (
            f"La scala non è quella del report ({'; '.join(less)}): dove i risultati differiscono, la causa può essere questa."
            if less
            else "Epoche e rumore sono quelli del report, che però non ha misure come queste: non c'è un suo valore con cui confrontarle."
            if analysis.report_configurations(experiment).empty
            else "Epoche, rumore e configurazioni sono quelli del report: una differenza non può venire dalla scala."
        ),
    }


def numbered_table(name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """A numbered table whose rows follow the runs; its cell needs the metadata `mystnb: {markdown_format: myst}`."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return Markdown("\n".join([f":::{{table}} {caption}", f":name: {name}", "", *lines, ":::"]))


def glue_texts(texts: Mapping[str, str]) -> None:
    """Makes each text available to the page as `{glue:text}` under its name."""
    for key, text in texts.items():
        glue(key, text, display=False)


def setting_texts(runs: Sequence[Run], last: pd.DataFrame) -> dict[str, str]:
    """The settings that the runs themselves carry: widths, epochs, seeds, noise, batch, and each optimiser's own."""
    texts = {
        "widths": listing(sorted(set(last["width"]))),
        "epochs": listing(number(epochs, 0) for epochs in sorted(set(last["epochs"]))),
        "seeds": seeds_text([last["seed"].nunique()]),
        "label_noise": listing(map(percent, sorted(set(last["label_noise"])))),
        "batch_size": listing(sorted({run.spec.batch_size for run in runs})),
    }
    schedules = {"cosine": "tasso che scende a zero lungo un coseno", "constant": "tasso costante"}
    for optimizer in OPTIMIZERS:
        texts[f"{optimizer}_settings"] = "non eseguito"
        for spec in (run.spec.optimizer for run in runs if run.spec.optimizer.name == optimizer):
            momentum = f"momento {_exact(spec.momentum)}, " if spec.momentum else ""
            decay = f"decadimento dei pesi {_exact(spec.weight_decay)}"
            texts[f"{optimizer}_settings"] = f"tasso di apprendimento {_exact(spec.lr)}, {momentum}{decay}, {schedules[spec.schedule]}"
    return texts
