"""The claims of the documents: read from the ledger, measured on the runs in the store, judged by criteria fixed in the ledger.

A verdict is derived here and written nowhere. Each claim makes one or more checks; a check is a measurement (a function of `measures`)
of one or more cases and a range in which every case has to lie. An interval inside the range holds, one outside fails, one across its
border decides nothing.
"""

import functools
import inspect
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import ncbook.fn.measures
import ncbook.report.measures  # noqa: F401 (both register their measures)
from ncbook.analysis import Estimate
from ncbook.chapters import CHAPTERS, ROOT, Chapter, chapter_specs
from ncbook.evidence import Evidence
from ncbook.measures import MEASURES
from ncbook.spec import RunSpec
from ncbook.store import Store

LEDGER = ROOT / "book" / "claims.yml"
LANGUAGES = ("it", "en")
DOCUMENTS = {
    "report": {"it": "Il report sui modelli 1D", "en": "The report on 1-D models"},
    "fn_star": {"it": "L'articolo su fn*", "en": "The fn* paper"},
}
"""What makes the claims: name in the ledger -> language -> what it is called."""
HELD, FAILED, UNDECIDED = OUTCOMES = ("held", "failed", "undecided")
REPRODUCED, PARTLY, NOT_REPRODUCED, _, NOT_TESTABLE, NOT_YET = VERDICTS = (
    "reproduced",
    "partly reproduced",
    "not reproduced",
    UNDECIDED,
    "not testable",
    "not yet at this scale",
)
SELECTABLE = ("data", "model", "optimizer", "width", "feature_dim", "activation", "weight_decay", "epochs", "seed")
"""By what a claim can restrict the runs of a chapter."""
QUANTITIES = ("epochs", "seeds", "subset", "switch", "width")
"""What a scale is measured in; called as the parameters of chapters are."""
ALL = math.inf
"""As a number of training images: all of them."""


class ClaimError(ValueError):
    """A ledger that cannot be judged by, or a claim that is not in it; the message names the claim, the reason and the way out."""


class Range(NamedTuple):
    """A criterion: where a value has to lie, strictly between `low` and `high`."""

    low: float
    high: float

    def outcome(self, value: Estimate) -> str:
        """What the value's interval says: "held", "failed", or "undecided" if it reaches across a border or there is none."""
        if math.isnan(value.low) or math.isnan(value.high):
            return UNDECIDED
        above, below = self.low < value.low or math.isinf(self.low), value.high < self.high or math.isinf(self.high)
        if above and below:
            return HELD
        return FAILED if value.high <= self.low or value.low >= self.high else UNDECIDED


@functools.lru_cache
def _defaults(chapter: Chapter) -> list[RunSpec]:
    return chapter_specs(chapter, {})


@dataclass(frozen=True)
class Check:
    """One thing that a claim promises."""

    says: Mapping[str, str]
    """What is measured, in each language."""
    measure: str
    arguments: Mapping[str, Any]
    criterion: Range


@dataclass(frozen=True)
class Reads:
    """Runs that a claim is judged by: those of a chapter's defaults, restricted to some values of `SELECTABLE`."""

    chapter: str
    only: Mapping[str, list]

    def specs(self, given: Mapping[str, Any] | None = None) -> list[RunSpec]:
        """The runs; with `given`, those that the chapter would need with these parameters as its defaults."""
        chapter = CHAPTERS[self.chapter]
        return [spec for spec in (chapter_specs(chapter, given) if given else _defaults(chapter)) if self._chosen(spec)]

    def _chosen(self, spec: RunSpec) -> bool:
        values = {"data": spec.data.name, "model": spec.model.name, "optimizer": spec.optimizer.name, "width": spec.model.width}
        values |= {"feature_dim": spec.model.feature_dim, "activation": spec.model.activation}
        values |= {"weight_decay": spec.optimizer.weight_decay, "epochs": spec.epochs, "seed": spec.seed}
        return all(values[name] in allowed for name, allowed in self.only.items())


@dataclass(frozen=True)
class Scale:
    """The least at which a claim is judged: so many seeds of every configuration, trained for so many epochs, and what else is not None."""

    epochs: int
    seeds: int
    subset: float | None = None
    """Training images, or `ALL`."""
    switch: int | None = None
    """Epochs of cross-entropy before the loss changes."""
    width: int | None = None
    """Of the narrowest network."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Quantity -> the chapter's parameter that sets it for these runs, where that is not called the same."""

    @property
    def needs(self) -> dict[str, float]:
        """Quantity -> its least value, of those that matter here."""
        return {name: getattr(self, name) for name in QUANTITIES if getattr(self, name) is not None}


@dataclass(frozen=True)
class Claim:
    """What a document says, and what would show it right or wrong."""

    id: str
    document: str
    place: Mapping[str, str]
    statement: Mapping[str, str]
    reported: Mapping[str, str]
    why: Mapping[str, str]
    """Why the criteria are what they are; for a claim that cannot be tested, why not."""
    checks: tuple[Check, ...]
    """None: not testable here."""
    reads: tuple[Reads, ...]
    """Empty: the checks need no runs, and no scale."""
    scale: Scale | None


class Case(NamedTuple):
    """One value of a check and what it says."""

    name: str
    value: Estimate
    outcome: str


@dataclass(frozen=True)
class Found:
    """The runs that there are for a claim: how many of those it reads are missing, and the least of each of `QUANTITIES` in the others."""

    missing: int
    total: int
    epochs: int
    seeds: int
    subset: float = ALL
    switch: float = math.inf
    """Infinite where the loss never changes."""
    width: float = math.inf

    def short_of(self, scale: Scale) -> dict[str, float]:
        """Quantity -> what the scale asks for, of those that fall short of it."""
        return {name: least for name, least in scale.needs.items() if getattr(self, name) < least}


@dataclass(frozen=True)
class Result:
    """A claim, measured and judged.

    cases: those of each of the claim's checks, empty where there are no runs. found: None if the claim reads none. short: what there is
    for each chapter whose runs, taken alone, do not suffice.
    """

    claim: Claim
    cases: tuple[tuple[Case, ...], ...]
    found: Found | None
    verdict: str
    short: Mapping[str, Found] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many cases held, failed and are undecided."""
        outcomes = [case.outcome for cases in self.cases for case in cases]
        return {outcome: outcomes.count(outcome) for outcome in OUTCOMES}


def judge(outcomes: Iterable[str]) -> str:
    """The verdict on the outcomes of all cases, at sufficient scale.

    Reproduced if all held; partly if some did; not reproduced if none did and one failed; undecided if no interval decides anything.
    """
    outcomes = list(outcomes)
    if HELD in outcomes:
        return REPRODUCED if set(outcomes) == {HELD} else PARTLY
    return NOT_REPRODUCED if FAILED in outcomes else UNDECIDED


def reaches(found: Found, scale: Scale) -> bool:
    """Whether the runs suffice for a verdict."""
    return not found.missing and not found.short_of(scale)


def _found(total: int, evidence: Evidence, scale: Scale) -> Found:
    """A configuration's seeds are those trained long enough, its epochs the least of theirs; where none is, those trained longest."""
    there = [run.spec for run in evidence.runs]
    groups: dict[tuple, list[RunSpec]] = {}
    for spec in there:
        groups.setdefault((spec.model, spec.optimizer, spec.data, spec.batch_size, spec.switch, spec.intervention), []).append(spec)
    reached = min((max(spec.epochs for spec in group) for group in groups.values()), default=0)
    long_enough = [[spec for spec in group if spec.epochs >= min(reached, scale.epochs)] for group in groups.values()]
    return Found(
        missing=total - len(there),
        total=total,
        epochs=min((spec.epochs for group in long_enough for spec in group), default=0),
        seeds=min((len({spec.seed for spec in group}) for group in long_enough), default=0),
        subset=min((spec.data.subset or ALL for spec in there), default=ALL),
        switch=min((spec.switch.epoch for spec in there if spec.switch), default=math.inf),
        width=min((spec.model.width for spec in there), default=math.inf),
    )


def evaluate(claims: Iterable[Claim], store: Store | None = None, given: Mapping[str, Mapping[str, Any]] | None = None) -> list[Result]:
    """Each claim's verdict from the runs in the store; nothing is trained. Raises `StoreError` where a run is damaged.

    given: by chapter, parameters that count in place of its defaults.
    """
    store, given = store or Store(), given or {}
    shared: dict[frozenset[str], Evidence] = {}
    results = []
    for claim in claims:
        read: dict[str, dict[str, None]] = {}
        for reads in claim.reads:
            read.setdefault(reads.chapter, {}).update(dict.fromkeys(spec.key for spec in reads.specs(given.get(reads.chapter))))
        wanted = dict.fromkeys(key for keys in read.values() for key in keys)
        present = [key for key in wanted if key in store]
        if (keys := frozenset(present)) not in shared:
            shared[keys] = Evidence([store.load(key) for key in present])
        evidence = shared[keys]
        measurable = evidence.runs or not claim.reads
        cases = tuple(_cases(check, evidence) if measurable else () for check in claim.checks)
        found = _found(len(wanted), evidence, claim.scale) if claim.scale else None
        if not claim.checks:
            verdict = NOT_TESTABLE
        elif found and claim.scale and not reaches(found, claim.scale):
            verdict = NOT_YET
        else:
            verdict = judge(case.outcome for check in cases for case in check)
        results.append(Result(claim, cases, found, verdict, _short(claim.scale, read, evidence) if claim.scale else {}))
    return results


def _short(scale: Scale, read: Mapping[str, Collection[str]], evidence: Evidence) -> dict[str, Found]:
    """What there is for each chapter, given the keys of its runs, that does not reach the scale."""
    runs = {chapter: [run for run in evidence.runs if run.spec.key in keys] for chapter, keys in read.items()}
    found = {chapter: _found(len(read[chapter]), Evidence(some), scale) for chapter, some in runs.items()}
    return {chapter: one for chapter, one in found.items() if not reaches(one, scale)}


def _cases(check: Check, evidence: Evidence) -> tuple[Case, ...]:
    measure = MEASURES[check.measure]
    values = {name: value.within(measure.low, measure.high) for name, value in measure.function(evidence, **check.arguments).items()}
    return tuple(Case(name, value, check.criterion.outcome(value)) for name, value in values.items())


def ledger_specs(ids: Iterable[str], document: str) -> list[RunSpec]:
    """The runs that these claims of a document read (no id: all of its claims). Raises `ClaimError` for an unknown id."""
    read = [spec for claim in chosen(ids, document) for reads in claim.reads for spec in reads.specs()]
    return list({spec.key: spec for spec in read}.values())


def chosen(ids: Iterable[str], document: str | None = None, path: Path = LEDGER) -> list[Claim]:
    """The claims with these ids, in the ledger's order; all if there are none; with `document`, those of that one alone.

    Raises `ClaimError` for an id that is not among them.
    """
    claims, ids = [claim for claim in load(path) if document in (None, claim.document)], list(map(str.upper, ids))
    if unknown := sorted(set(ids) - {claim.id for claim in claims}):
        place = f"in {DOCUMENTS[document]['en'].lower()}" if document else "in the ledger"
        spans = [f"{of[0]} to {of[-1]}" for name in DOCUMENTS if (of := [claim.id for claim in claims if claim.document == name])]
        raise ClaimError(f"There is no claim {unknown[0]!r} {place}: it has {' and '.join(spans)}.")
    return [claim for claim in claims if not ids or claim.id in ids]


def load(path: Path = LEDGER) -> list[Claim]:
    """The ledger's claims, checked. Raises `ClaimError` for what is missing, unknown, doubled, or could not come out otherwise."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ClaimError(f"{path.name} is not a list of claims.")
    claims = [_claim(entry) for entry in entries]
    ids = [claim.id for claim in claims]
    if repeated := sorted({id for id in ids if ids.count(id) > 1}):
        raise ClaimError(f"{repeated[0]} stands twice in {path.name}: give each claim an id of its own.")
    return claims


def _fields(entry: Any, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    required, optional = list(required), list(optional)
    if not isinstance(entry, dict):
        raise ClaimError(f"{where}: {entry!r} is not a mapping with the fields {', '.join(required + optional)}.")
    if unknown := [name for name in entry if name not in required + optional]:
        raise ClaimError(f"{where} has an unknown field {unknown[0]!r}: the fields are {', '.join(required + optional)}.")
    if missing := [name for name in required if entry.get(name) in (None, "", [], {})]:
        raise ClaimError(f"{where} lacks {missing[0]}.")
    return entry


def _texts(entry: Any, where: str) -> dict[str, str]:
    return _fields(entry, where, LANGUAGES)


def _claim(entry: Any) -> Claim:
    where = entry.get("id", "A claim without id") if isinstance(entry, dict) else "A claim"
    texts = ("place", "statement", "reported", "why")
    _fields(entry, where, ("id", "document", *texts), ("checks", "reads", "scale"))
    if ("reads" in entry) != ("scale" in entry):
        raise ClaimError(f"{where}: reads and scale go together; a claim that reads runs says at which scale it is judged.")
    if entry["document"] not in DOCUMENTS:
        raise ClaimError(f"{where} is of document {entry['document']!r}, which does not exist: choose one of {', '.join(DOCUMENTS)}.")
    given = entry.get("reads", [])
    reads = tuple(_reads(one, where) for one in (given if isinstance(given, list) else [given]))
    scale = _scale(entry["scale"], f"{where}, scale") if reads else None
    checks = tuple(_check(check, f"{where}, check {i}") for i, check in enumerate(entry.get("checks", []), 1))
    worded = {name: _texts(entry[name], f"{where}, {name}") for name in texts}
    return Claim(entry["id"], entry["document"], **worded, checks=checks, reads=reads, scale=scale)


def _reads(entry: Any, where: str) -> Reads:
    only = dict(_fields(entry, f"{where}, reads", ["chapter"], SELECTABLE))
    if (chapter := only.pop("chapter")) not in CHAPTERS:
        raise ClaimError(f"{where} reads chapter {chapter!r}, which does not exist: choose one of {', '.join(CHAPTERS)}.")
    if single := [name for name, values in only.items() if not isinstance(values, list)]:
        raise ClaimError(f"{where}, reads: {single[0]}: {only[single[0]]!r} is not a list: write one, even of a single value.")
    return Reads(chapter, only)


def _scale(entry: Any, where: str) -> Scale:
    """`subset: 0` stands for all images, as in chapters; `width_parameter: resnet_width` for a quantity that is called otherwise there."""
    named = {f"{name}_parameter": name for name in QUANTITIES}
    _fields(entry, where, QUANTITIES[:2], [*QUANTITIES[2:], *named])
    values = {name: value for name, value in entry.items() if name not in named}
    if values.get("subset") == 0:
        values["subset"] = ALL
    return Scale(**values, parameters={name: entry[field] for field, name in named.items() if field in entry})


def _check(entry: Any, where: str) -> Check:
    _fields(entry, where, ("says", "measure"), ("arguments", "above", "below", "between"))
    if (name := entry["measure"]) not in MEASURES:
        raise ClaimError(f"{where}: there is no measure {name!r}; the measures are {', '.join(sorted(MEASURES))}.")
    measure, arguments = MEASURES[name], entry.get("arguments", {})
    try:
        inspect.signature(measure.function).bind(None, **arguments)
    except TypeError as error:
        raise ClaimError(f"{where}: {name} does not take these arguments ({error}).") from None
    criterion = _criterion(entry, where)
    above, below = criterion.low < measure.low or math.isinf(criterion.low), measure.high < criterion.high or math.isinf(criterion.high)
    if above and below:
        raise ClaimError(f"{where} cannot fail: {name} always lies in [{measure.low:g}, {measure.high:g}].")
    if criterion.high <= measure.low or criterion.low >= measure.high:
        raise ClaimError(f"{where} cannot hold: {name} always lies in [{measure.low:g}, {measure.high:g}].")
    return Check(_texts(entry["says"], f"{where}, says"), name, arguments, criterion)


def _criterion(entry: Mapping[str, Any], where: str) -> Range:
    given = [kind for kind in ("above", "below", "between") if kind in entry]
    if len(given) != 1:
        raise ClaimError(f"{where} has {len(given)} criteria: give one of above, below, between.")
    value = entry[given[0]]
    ends = value if isinstance(value, list) else [value]
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end) for end in ends):
        raise ClaimError(f"{where}: {given[0]}: {value!r} is not a finite number.")
    if given[0] == "between":
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ClaimError(f"{where}: between: {value!r} is not a pair of numbers, the lesser first.")
        return Range(*ends)
    return Range(value, math.inf) if given[0] == "above" else Range(-math.inf, value)
