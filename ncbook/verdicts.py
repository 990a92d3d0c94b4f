"""Evaluated claims in words: what was measured, how it was judged and why, in Italian or English; as text, as the book's table, as glue.

Nothing here decides a verdict, and no sentence names one but by `WORDS`.
"""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from IPython.display import HTML, Markdown

from ncbook import claims
from ncbook.analysis import Estimate
from ncbook.claims import FAILED, HELD, PARTLY, UNDECIDED, VERDICTS, Case, Found, Range, Result, Scale
from ncbook.measures import MEASURES
from ncbook.pages import number, numbered_table, with_interval

WORDS = {
    "it": dict(
        zip(VERDICTS, ("riprodotta", "riprodotta in parte", "non riprodotta", "indecisa", "non verificabile", "non ancora a questa scala"))
    ),
    "en": {verdict: verdict for verdict in VERDICTS},
}
"""Language -> verdict -> how it is called."""

_PHRASES = {
    "it": {
        "none": "n.d.",
        "between": "fra {} e {}",
        "exact": "esatto",
        "rounded": "da valori arrotondati",
        "basis_seeds": "semi: {}",
        "basis_runs": "reti: {}",
        "basis_conditions": "condizioni: {}",
        "basis_draws": "estrazioni: {}",
        "many": "{} casi, da {} ({}) a {} ({})",
        "no_runs": "nessuna rete",
        "no_scale": "non dipende da reti",
        "scale_epochs": "{} epoche",
        "scale_subset": "{} immagini",
        "scale_switch": "cambio di costo all’epoca {}",
        "scale_width": "larghezza {}",
        "scale_seeds": "semi: {}",
        "all": "tutte le",
        "missing": "reti mancanti: {} su {}",
        "trains": "per addestrarle {}",
        "epochs": "le epoche sono {} e ne servono {}",
        "seeds": "i semi sono {} e ne servono {}",
        "subset": "le immagini di addestramento sono {} e ne servono {}",
        "all_images": "le immagini di addestramento sono {} e servono tutte",
        "switch": "il costo cambia all’epoca {} e non alla {}",
        "width": "la rete più stretta ha larghezza {} e non {}",
        "one_seed": "c’è un solo seme, dunque nessun intervallo, e ne servono {}",
        "command": "per averli {}, poi gli stessi valori come predefiniti",
        "inside": "casi entro la soglia: {} su {}",
        "outside": "fuori: {}",
        "across": "a cavallo della soglia, o senza misura: {}",
        "undecided": "nessun intervallo decide",
        "seeds_decide": "l'intervallo attraversa la soglia in {} su {}, e servono più semi o, dove si confrontano condizioni, più condizioni",
        "unmeasured": "non misurabili, perché accade in troppo poche reti: {} su {}",
        "share": "{} su {}",
        "cases": "{} su {} casi",
        "claim": "Affermazione",
        "reported": "Nel documento",
        "measured": "Misurato",
        "verdict": "Verdetto",
        "why": "Perché questa soglia",
        "tally": "Quante affermazioni hanno quale verdetto.",
        "count": "Quante",
        "ids": "Quali",
    },
    "en": {
        "none": "n/a",
        "between": "between {} and {}",
        "exact": "exact",
        "rounded": "from rounded values",
        "basis_seeds": "seeds: {}",
        "basis_runs": "runs: {}",
        "basis_conditions": "conditions: {}",
        "basis_draws": "draws: {}",
        "many": "{} cases, from {} ({}) to {} ({})",
        "no_runs": "no network",
        "no_scale": "rests on no network",
        "scale_epochs": "{} epochs",
        "scale_subset": "{} images",
        "scale_switch": "switch at epoch {}",
        "scale_width": "width {}",
        "scale_seeds": "seeds: {}",
        "all": "all",
        "missing": "networks missing: {} of {}",
        "trains": "to train them {}",
        "epochs": "there are {} epochs and {} are needed",
        "seeds": "there are {} seeds and {} are needed",
        "subset": "there are {} training images and {} are needed",
        "all_images": "there are {} training images and all are needed",
        "switch": "the loss changes at epoch {} and not at {}",
        "width": "the narrowest network has width {} and not {}",
        "one_seed": "there is one seed, hence no interval, and {} are needed",
        "command": "to have them {}, then the same values as defaults",
        "inside": "cases that meet the criterion: {} of {}",
        "outside": "outside: {}",
        "across": "across its border, or not measured: {}",
        "undecided": "no interval decides",
        "seeds_decide": (
            "the interval reaches across the border in {} of {}, so that more seeds are needed or, where conditions are compared, "
            "more conditions"
        ),
        "unmeasured": "not measurable, as it happens in too few runs: {} of {}",
        "share": "{} of {}",
        "cases": "{} of {} cases",
        "claim": "Claim",
        "reported": "In the document",
        "measured": "Measured",
        "verdict": "Verdict",
        "why": "Why this criterion",
        "tally": "How many claims have which verdict.",
        "count": "How many",
        "ids": "Which",
    },
}
_CASE_WORDS = {
    "it": {
        "noisy": "et. rumorose",
        "clean": "et. pulite",
        "test error": "errore di test",
        "norms": "norme",
        "angles": "angoli",
        "uncentred": "non centrata",
        "debiased": "senza distorsione",
    },
    "en": {"noisy": "noisy labels", "clean": "clean labels"},
}
_MOST_CASES = 4  # that are listed one by one


def _in(language: str, italian: str) -> str:
    """A number written the Italian way, in the language."""
    return italian if language == "it" else italian.translate(str.maketrans(".,;", ",.,"))


def case_name(case: Case, language: str) -> str:
    """What a case is called, in the language's words and with its signs for decimals and thousands."""
    name = case.name
    for english, word in _CASE_WORDS[language].items():
        name = name.replace(english, word)
    return re.sub(r"(?<=\d)[.,](?=\d)", lambda sign: {".": ",", ",": "."}[sign[0]], name) if language == "it" else name


def value_text(value: Estimate, language: str, criterion: Range | None = None) -> str:
    """`0,153 [0,140; 0,166]`, the value alone where there is no interval; so exactly that no bound is rounded to one of the criterion's."""
    if not math.isfinite(value.mean):
        return _PHRASES[language]["none"]
    if 0 < value.mean < 1e-6 and not max(-value.low, value.high) >= 1e-6:
        return "< 10⁻⁶"
    shown = value if value.n or value.low < value.high else Estimate(value.mean, math.nan, math.nan, 0)
    whole = all(math.isnan(part) or math.isfinite(part) and math.isclose(part, round(part)) for part in shown[:3])
    digits = 0 if whole or abs(value.mean) >= 100 else 3
    while digits < 6 and any(part != end and round(part, digits) == end for part in shown[:3] for end in criterion or ()):
        digits += 1
    return _in(language, with_interval(shown, digits))


def criterion_text(criterion: Range, language: str) -> str:
    """`> 0`, `< 0,1` or `fra 0,195 e 0,205`."""
    low, high = (_in(language, f"{end:,.6g}".translate(str.maketrans(",.-", ".,−"))) for end in criterion)
    if math.isinf(criterion.high):
        return f"> {low}"
    return f"< {high}" if math.isinf(criterion.low) else _PHRASES[language]["between"].format(low, high)


def _cases_text(cases: Sequence[Case], unit: str, criterion: Range, language: str) -> str:
    """The values of one check; of many, the extremes. How many seeds, or other `unit`, they rest on."""

    def text(case: Case) -> str:
        return value_text(case.value, language, criterion)

    words = _PHRASES[language]
    measured = sorted((case for case in cases if math.isfinite(case.value.mean)), key=lambda case: case.value.mean)
    if not measured:
        return words["none"] if cases else words["no_runs"]
    counts = sorted({case.value.n for case in measured})
    if counts == [0]:
        basis = words["rounded" if any(case.value.low < case.value.high for case in measured) else "exact"]
    else:
        basis = words[f"basis_{unit}"].format("–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))))
    if len(cases) <= _MOST_CASES:
        return "; ".join(f"{case_name(case, language)}: {text(case)}" for case in cases) + f" ({basis})"
    ends = [part for case in (measured[0], measured[-1]) for part in (text(case), case_name(case, language))]
    return words["many"].format(len(cases), *ends) + f" ({basis})"


def measured_texts(result: Result, language: str) -> list[str]:
    """One text for each check: what it measures, where it has to lie, what came out."""
    return [
        f"{check.says[language]} ({criterion_text(check.criterion, language)}): "
        f"{_cases_text(cases, MEASURES[check.measure].unit, check.criterion, language)}"
        for check, cases in zip(result.claim.checks, result.cases, strict=True)
    ]


def _count(value: float, language: str) -> str:
    """A quantity of a scale; all images, if so many."""
    return _PHRASES[language]["all"] if value == claims.ALL else _in(language, number(value, 0))


def scale_text(result: Result, language: str) -> str:
    """The scale of the runs that the claim was measured on."""
    words, found, scale = _PHRASES[language], result.found, result.claim.scale
    if not found or not scale:
        return words["no_scale"]
    if not found.epochs:
        return words["no_runs"]
    shown = sorted(scale.needs, key=("epochs", "subset", "switch", "width", "seeds").index)
    return ", ".join(words[f"scale_{name}"].format(_count(getattr(found, name), language)) for name in shown)


def reason_text(result: Result, language: str, *, command: bool = True) -> str:
    """Why the verdict is what it is, in one sentence; where runs lack, with the `command` that trains them."""
    words, claim = _PHRASES[language], result.claim
    if not claim.checks:
        return claim.why[language]
    if result.found and claim.scale and not claims.reaches(result.found, claim.scale):
        parts = _shortfall(result, language, command)
    elif result.verdict == UNDECIDED:
        values = [case.value.mean for cases in result.cases for case in cases]
        missing = sum(map(math.isnan, values))
        kinds = {"seeds_decide": len(values) - missing, "unmeasured": missing}
        parts = [words["undecided"], *(words[kind].format(count, len(values)) for kind, count in kinds.items() if count)]
    else:
        counts = result.counts()
        parts = [words["inside"].format(counts[HELD], sum(counts.values()))]
        others = (("outside", FAILED), ("across", UNDECIDED))
        parts += [words[kind].format(_which(result, outcome, language)) for kind, outcome in others if counts[outcome]]
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _shortfall(result: Result, language: str, command: bool) -> list[str]:
    """What the runs lack, and the command that makes it."""
    words, claim, found = _PHRASES[language], result.claim, result.found
    assert claim.scale and found
    if found.missing:
        missing = words["missing"].format(found.missing, found.total)
        return [missing, words["trains"].format(_sweeps(dict.fromkeys(result.short, [])))] if command else [missing]
    parts = []
    for name, least in found.short_of(claim.scale).items():
        has, needed = (_count(value, language) for value in (getattr(found, name), least))
        phrase = "all_images" if least == claims.ALL else "one_seed" if name == "seeds" and found.seeds == 1 else name
        parts.append(words[phrase].format(*([needed] if phrase == "one_seed" else [has, needed])))
    arguments = {chapter: _arguments(one, claim.scale) for chapter, one in result.short.items()}
    return [*parts, words["command"].format(_sweeps(arguments))] if command else parts


def _arguments(found: Found, scale: Scale) -> list[str]:
    """The parameters with which a chapter reaches the scale; what it has enough of stays as it is."""
    arguments = []
    for name, least in found.short_of(scale).items():
        value = f'"{list(range(int(least)))}"' if name == "seeds" else 0 if least == claims.ALL else int(least)
        arguments.append(f"-p {scale.parameters.get(name, name)} {value}")
    return arguments


def _sweeps(arguments: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"`{' '.join(['ncbook sweep', chapter, *values])}`" for chapter, values in arguments.items())


def _which(result: Result, outcome: str, language: str) -> str:
    """The checks with that outcome and, where it is not that of all their cases or another check is called the same, which ones; of many
    how many."""
    texts, called = [], [check.says for check in result.claim.checks]
    for check, cases in zip(result.claim.checks, result.cases, strict=True):
        names = [case_name(case, language) for case in cases if case.outcome == outcome]
        if names:
            which = ", ".join(names) if len(names) <= _MOST_CASES else _PHRASES[language]["share"].format(len(names), len(cases))
            ambiguous = len(cases) > len(names) or called.count(check.says) > 1
            texts.append(check.says[language] + (f" ({which})" if ambiguous else ""))
    return ", ".join(texts)


def text_table(results: Iterable[Result], language: str = "en", width: int = 120) -> str:
    """The results as plain text: an aligned row for each claim, the reason of its verdict below it."""
    from tabulate import tabulate

    headers = ["id", "reported", "measured", "scale", "verdict"]
    room = max(width - 4 - 2 * (len(headers) - 1), 60)
    columns = [4, *(int(share * room) for share in (0.2, 0.46, 0.16, 0.18))]
    rows = []
    for result in results:
        measured = "\n".join(measured_texts(result, language) + [f"→ {reason_text(result, language)}"])
        row = [result.claim.id, result.claim.reported[language], measured, scale_text(result, language), WORDS[language][result.verdict]]
        rows.append(row)
    return tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=columns, disable_numparse=True)


def _word(result: Result, language: str) -> str:
    """The verdict as `WORDS` has it; of one that is partly reproduced in how many of its cases."""
    word = WORDS[language][result.verdict]
    if result.verdict != PARTLY:
        return word
    counts = result.counts()
    return f"{word}, {_PHRASES[language]['cases'].format(counts[HELD], sum(counts.values()))}"


def slug(verdict: str) -> str:
    """The verdict as a name for CSS and glue."""
    return "verdict-" + verdict.replace(" ", "-")


def html_table(results: Iterable[Result], language: str) -> HTML:
    """The results as the book's table, a row for each claim, whose id is `verdict-<id of the claim>`."""
    words = _PHRASES[language]
    names = [words[name] for name in ("claim", "reported", "measured", "verdict")]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_html_row(result, language, names) for result in results)
    return HTML(f'<table class="claims" lang="{language}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _html_row(result: Result, language: str, names: Sequence[str]) -> str:
    claim, text = result.claim, lambda given: _typeset(html.escape(given, quote=False))
    measured = "".join(f"<li>{text(one)}</li>" for one in measured_texts(result, language))
    why = f"<details><summary>{_PHRASES[language]['why']}</summary>{text(claim.why[language])}</details>"
    return (
        f'<tr id="verdict-{claim.id}"><th scope="row"><b>{claim.id}</b> <small>{text(claim.place[language])}</small><br>'
        f"{text(claim.statement[language])}</th>"
        f'<td data-name="{names[1]}">{text(claim.reported[language])}</td>'
        f'<td data-name="{names[2]}"><ul>{measured}</ul><small>{scale_text(result, language)}</small></td>'
        f'<td data-name="{names[3]}"><span class="verdict {slug(result.verdict)}">{WORDS[language][result.verdict]}</span> {text(reason_text(result, language))}{why}</td></tr>'
    )


def _typeset(text: str) -> str:
    """Backquoted parts as code, the others as the book's prose has them: with typographic apostrophes and T_NC as a formula."""
    prose = text.replace("'", "’").replace("T_NC", "<i>T</i><sub>NC</sub>").split("`")
    code = text.split("`")
    return "".join(f"<code>{code[i]}</code>" if i % 2 else part for i, part in enumerate(prose))


def tally_table(results: Sequence[Result], language: str, label: str = "verdicts-tally") -> Markdown:
    """How many claims have each verdict, and which, as a table that is referred to by `label`."""
    words = _PHRASES[language]
    ids = {verdict: [result.claim.id for result in results if result.verdict == verdict] for verdict in VERDICTS}
    rows = [[WORDS[language][verdict], str(len(those)), ", ".join(those) or "–"] for verdict, those in ids.items()]
    return numbered_table(label, words["tally"], [words["verdict"], words["count"], words["ids"]], rows)


def page_texts(results: Sequence[Result], language: str) -> dict[str, str]:
    """What prose takes from the ledger, by name.

    `verdict_<id>`, as `VERDICTS` has it; `word_<id>`, as `WORDS` has it and, where that is in part, in how many cases; `measured_<id>`; `reason_<id>`; `claims_count`; `word_<verdict>`.
    """
    texts = {"claims_count": str(len(results))}
    for result in results:
        name = result.claim.id
        texts[f"verdict_{name}"], texts[f"word_{name}"] = result.verdict, _word(result, language)
        texts[f"measured_{name}"] = "; ".join(measured_texts(result, language))
        texts[f"reason_{name}"] = reason_text(result, language, command=False)
    return texts | {f"word_{verdict.replace(' ', '_')}": WORDS[language][verdict] for verdict in VERDICTS}
