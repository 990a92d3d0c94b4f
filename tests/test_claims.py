"""The ledger of claims: what it accepts, how verdicts follow from values, and that pages take theirs from nowhere else."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from ncbook import claims, models, representations, verdicts
from ncbook.analysis import Estimate, estimate
from ncbook.claims import (
    FAILED,
    HELD,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    NOT_YET,
    PARTLY,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    Case,
    ClaimError,
    Found,
    Range,
    Scale,
)
from ncbook.cli import main
from ncbook.evidence import Evidence
from ncbook.experiments import exp1_specs, exp2_specs, exp3_specs, exp4_specs
from ncbook.measures import MEASURES, exact
from ncbook.metrics import gram_floor
from ncbook.report import facts, measures
from ncbook.spec import RunSpec
from ncbook.store import PROVENANCE, Run, Store

BOOK = claims.LEDGER.parent
LEDGER = claims.load()
CHECKS = [pytest.param(claim, i, id=f"{claim.id}-{i}") for claim in LEDGER for i in range(len(claim.checks))]
CLAIM = yaml.safe_load("""
id: X01
document: report
place: {it: qui, en: here}
statement: {it: sale, en: it rises}
reported: {it: "1", en: "1"}
reads: {chapter: exp1, width: [4]}
scale: {epochs: 3, seeds: 2}
checks: [{says: {it: rialzo, en: rise}, measure: peak_rise, above: 0}]
why: {it: perché sì, en: because}
""")


def fake(spec: RunSpec, **values) -> Run:
    """A run that ended with these metrics; a callable gets the epochs. Its weights are those of an untrained network."""
    epochs = np.array(spec.recorded_epochs)
    metrics = {
        name: np.broadcast_to(value(epochs) if callable(value) else value, epochs.shape).astype(float) for name, value in values.items()
    }
    provenance = dict.fromkeys(PROVENANCE, "test") | {"seconds": 1.0, "parameters": 12 * spec.model.width**2 + 23 * spec.model.width}
    network = models.build(spec.model)
    network.reset([spec.seed])
    state = {name: tensor[0].numpy() for name, tensor in network.state_dict().items()}
    return Run(spec, provenance, epochs, {"train_loss": np.zeros(len(epochs)), **metrics}, dict.fromkeys(spec.snapshots, state))


def curve(errors: dict[int, float], seeds=(0, 1, 2), **others) -> Evidence:
    """ResNet1D under SGD with these test errors by width, a little different in every seed; others: metric -> function of both."""
    specs = exp1_specs(list(errors), ["resnet1d"], ["sgd"], 2, list(seeds), 0.2, 0)
    runs = []
    for spec in specs:
        width, error = spec.model.width, errors[spec.model.width] + 0.001 * spec.seed
        runs.append(fake(spec, test_error=error, **{name: function(width, error) for name, function in others.items()}))
    return Evidence(runs)


# The ledger


@pytest.mark.parametrize(("document", "letter", "count"), [("report", "R", 25), ("fn_star", "F", 21)])
def test_the_ledger_has_every_claim_of_a_document_once_and_in_order(document, letter, count):
    assert [claim.id for claim in claims.chosen([], document)] == [f"{letter}{number:02d}" for number in range(1, count + 1)]


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_every_claim_has_a_measurement_or_a_reason(claim):
    assert claim.checks or len(claim.why["it"]) > 40
    assert all(claim.why.values()) and all(claim.statement.values())


@pytest.mark.parametrize(("claim", "i"), CHECKS)
def test_every_check_can_hold_and_can_fail_and_changes_the_verdict(claim, i):
    """Values on either side of the criterion, within what the measure can give."""
    check, measure = claim.checks[i], MEASURES[claim.checks[i].measure]
    low, high = max(check.criterion.low, measure.low), min(check.criterion.high, measure.high)
    inside = low + 1 if math.isinf(high) else high - 1 if math.isinf(low) else (low + high) / 2
    others = [end for end in check.criterion if math.isfinite(end) and measure.low <= end <= measure.high]
    assert others, "nothing that the measure can give lies outside"
    assert check.criterion.outcome(exact(inside)) == HELD
    assert {check.criterion.outcome(exact(border)) for border in others} == {FAILED}
    rest = [HELD] * (len(claim.checks) - 1)
    assert claims.judge([*rest, HELD]) == REPRODUCED != claims.judge([*rest, FAILED])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"verdict": "reproduced"},
            "X01 has an unknown field 'verdict': the fields are id, document, place, statement, reported, why, checks",
        ),
        ({"statement": {"it": "sale"}}, "X01, statement lacks en."),
        ({"why": None}, "X01 lacks why."),
        ({"scale": None}, "X01, scale: None is not a mapping with the fields epochs, seeds, subset, switch, width, epochs_parameter, "),
        ({"document": "essay"}, "X01 is of document 'essay', which does not exist: choose one of report, fn_star."),
        ({"reads": {"chapter": "exp9"}}, "X01 reads chapter 'exp9', which does not exist"),
        ({"reads": {"chapter": "exp1", "depth": [2]}}, "X01, reads has an unknown field 'depth'"),
        ({"reads": {"chapter": "exp1", "width": 4}}, "X01, reads: width: 4 is not a list: write one, even of a single value."),
        ({"measure": "guess"}, "X01, check 1: there is no measure 'guess'; the measures are "),
        (
            {"arguments": {"metrics": []}},
            "X01, check 1: peak_rise does not take these arguments (got an unexpected keyword argument 'metrics').",
        ),
        ({"above": None, "below": None}, "X01, check 1 has 2 criteria: give one of above, below, between."),
        ({"above": "0"}, "X01, check 1: above: '0' is not a finite number."),
        ({"above": -math.inf}, "X01, check 1: above: -inf is not a finite number."),
        (
            {"measure": "error_from", "arguments": {"width": 4, "epoch": 1}, "above": -1},
            "X01, check 1 cannot fail: error_from always lies in [0, 1].",
        ),
        (
            {"measure": "error_from", "arguments": {"width": 4, "epoch": 1}, "above": 1},
            "X01, check 1 cannot hold: error_from always lies in [0, 1].",
        ),
        (
            {"measure": "at_width", "arguments": {"metrics": ["nc1_noisy"], "width": 4}, "above": -5},
            "X01, check 1 cannot fail: at_width always lies in [0, inf].",
        ),
    ],
)
def test_a_bad_ledger_is_refused_in_one_sentence(tmp_path, change, message):
    entry = json.loads(json.dumps(CLAIM))
    for name, value in change.items():
        (entry["checks"][0] if name in ("measure", "arguments", "above", "below") else entry)[name] = value
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([entry]), encoding="utf-8")
    with pytest.raises(ClaimError) as error:
        claims.load(path)
    assert str(error.value).startswith(message)


def test_a_doubled_claim_and_an_unknown_one_are_refused(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([CLAIM, CLAIM]), encoding="utf-8")
    with pytest.raises(ClaimError, match=r"^X01 stands twice in claims\.yml"):
        claims.load(path)
    assert [claim.id for claim in claims.chosen(["r02", "R01"])] == ["R01", "R02"]
    with pytest.raises(ClaimError, match=r"^There is no claim 'R99' in the ledger: it has R01 to R25"):
        claims.chosen(["R01", "R99"])
    with pytest.raises(ClaimError, match=r"^There is no claim 'F01' in the report on 1-d models: it has R01 to R25\.$"):
        claims.chosen(["F01"], "report")


# Verdicts


@pytest.mark.parametrize(
    ("criterion", "value", "outcome"),
    [
        (Range(0, math.inf), Estimate(0.2, 0.1, 0.3, 3), HELD),
        (Range(0, math.inf), Estimate(0.2, -0.1, 0.5, 3), UNDECIDED),
        (Range(0, math.inf), Estimate(-0.2, -0.3, -0.1, 3), FAILED),
        (Range(0, math.inf), Estimate(0, 0, 0, 3), FAILED),
        (Range(0, math.inf), Estimate(0.2, math.nan, math.nan, 1), UNDECIDED),
        (Range(0, math.inf), estimate([]), UNDECIDED),
        (Range(-math.inf, 0.1), exact(0.05), HELD),
        (Range(0.5, 0.6), Estimate(0.55, 0.52, 0.58, 3), HELD),
        (Range(0.5, 0.6), Estimate(0.55, 0.45, 0.65, 3), UNDECIDED),
        (Range(0.5, 0.6), Estimate(0.7, 0.65, 0.75, 3), FAILED),
    ],
)
def test_an_interval_holds_fails_or_decides_nothing(criterion, value, outcome):
    assert criterion.outcome(value) == outcome


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([HELD, HELD], REPRODUCED),
        ([HELD, FAILED], PARTLY),
        ([HELD, UNDECIDED], PARTLY),
        ([FAILED, FAILED], NOT_REPRODUCED),
        ([FAILED, UNDECIDED], NOT_REPRODUCED),
        ([UNDECIDED], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_the_verdict_follows_from_the_outcomes(outcomes, verdict):
    assert claims.judge(outcomes) == verdict


@pytest.mark.parametrize(
    ("found", "enough"),
    [
        (Found(missing=0, total=4, epochs=3000, seeds=3), True),
        (Found(missing=1, total=4, epochs=3000, seeds=3), False),
        (Found(missing=0, total=4, epochs=2999, seeds=3), False),
        (Found(missing=0, total=4, epochs=3000, seeds=2), False),
    ],
)
def test_fewer_or_shorter_runs_than_the_scale_asks_for_bear_no_verdict(found, enough):
    assert claims.reaches(found, Scale(3000, 3)) == enough


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Judges a claim that the peak rises, by runs with these test errors by width; returns its result."""

    def judge(errors: dict[int, float], seeds=(0, 1, 2), without: int = 0, **changes):
        runs = curve(errors, seeds).runs
        monkeypatch.setattr(claims.Reads, "specs", lambda self, given=None: [run.spec for run in runs])
        store = Store(tmp_path / f"runs-{len(list(tmp_path.iterdir()))}", tmp_path / "none")
        for run in runs[without:]:
            store.save(run)
        claim = claims._claim({**CLAIM, "scale": {"epochs": 2, "seeds": 2}, **changes})
        return claims.evaluate([claim], store)[0]

    return judge


PEAKED = {2: 0.3, 4: 0.1, 8: 0.2, 16: 0.05}


def test_changed_runs_change_the_row(judged):
    peaked, flat = judged(PEAKED), judged({**PEAKED, 8: 0.1, 4: 0.15})
    assert (peaked.verdict, flat.verdict) == (REPRODUCED, NOT_REPRODUCED)
    assert peaked.cases[0][0].value.mean == pytest.approx(0.1) and peaked.cases[0][0].value.n == 3
    rows = [verdicts.text_table([result], "it", 140) for result in (peaked, flat)]
    assert "0,100" in rows[0] and "0,100" not in rows[1]


def test_what_the_scale_lacks_is_the_reason(judged):
    one = judged(PEAKED, seeds=[0])
    assert one.verdict == NOT_YET and one.cases[0][0].value.mean == pytest.approx(0.1)
    assert verdicts.reason_text(one, "en") == (
        'There is one seed, hence no interval, and 2 are needed; to have them `ncbook sweep exp1 -p seeds "[0, 1]"`, '
        "then the same values as defaults."
    )
    short = judged(PEAKED, scale={"epochs": 3000, "seeds": 2})
    assert short.verdict == NOT_YET and "le epoche sono 2 e ne servono 3.000" in verdicts.reason_text(short, "it").lower()
    partial = judged(PEAKED, without=2)
    assert partial.verdict == NOT_YET
    assert verdicts.reason_text(partial, "it") == "Reti mancanti: 2 su 12; per addestrarle `ncbook sweep exp1`."
    nothing = judged(PEAKED, without=12)
    assert nothing.cases == ((),) and nothing.verdict == NOT_YET


def test_a_verdict_that_no_interval_carries_says_what_would(judged):
    enough = judged(PEAKED)
    across, unknown = (enough.cases[0][0]._replace(value=Estimate(mean, -1, 1, 3), outcome=claims.UNDECIDED) for mean in (0.1, math.nan))
    result = dataclasses.replace(enough, cases=((across, unknown), (unknown,)), verdict=UNDECIDED)
    assert verdicts.reason_text(result, "en") == (
        "No interval decides; the interval reaches across the border in 1 of 3, so that more seeds are needed or, where conditions are compared, "
        "more conditions; "
        "not measurable, as it happens in too few runs: 2 of 3."
    )
    assert "servono più semi" not in verdicts.reason_text(dataclasses.replace(result, cases=((unknown,),)), "it")


@pytest.mark.parametrize(("language", "name"), [("it", "200–1.000, σ = 0,5"), ("en", "200–1,000, σ = 0.5")])
def test_a_case_is_named_with_the_languages_signs_for_decimals_and_thousands(language, name):
    assert verdicts.case_name(Case("200–1,000, σ = 0.5", estimate([0.0]), HELD), language) == name


def test_up_to_four_cases_are_named_and_more_are_counted(judged):
    peaked = judged(PEAKED)
    ((held,),) = peaked.cases
    outside = [held._replace(name=f"case {i}", outcome=FAILED) for i in range(5)]
    few, many, all_of_them = (
        verdicts.reason_text(dataclasses.replace(peaked, cases=(cases,), verdict=PARTLY), "it")
        for cases in ((held, *outside[:4]), (held, *outside), tuple(outside))
    )
    assert "(case 0, case 1, case 2, case 3)" in few
    assert "(5 su 6)" in many and "case 0" not in many
    assert all_of_them.endswith(f"fuori: {peaked.claim.checks[0].says['it']}.")


def test_checks_that_are_called_the_same_are_told_apart_by_their_cases(judged):
    peaked = judged(PEAKED)
    check, ((held,),) = peaked.claim.checks[0], peaked.cases
    cases = tuple((held._replace(name=name, outcome=FAILED),) for name in ("small", "large"))
    result = dataclasses.replace(
        peaked, claim=dataclasses.replace(peaked.claim, checks=(check, check)), cases=cases, verdict=NOT_REPRODUCED
    )
    assert "(small)" in (reason := verdicts.reason_text(result, "en")) and "(large)" in reason
    alone = dataclasses.replace(peaked, cases=cases[:1], verdict=NOT_REPRODUCED)
    assert "(small)" not in verdicts.reason_text(alone, "en")


def test_a_claim_without_checks_gives_its_reason(judged):
    result = judged(PEAKED, checks=[])
    assert result.verdict == NOT_TESTABLE and verdicts.reason_text(result, "en") == "because"


# Measures


def measured(name: str, evidence: Evidence, **arguments) -> dict[str, float]:
    return {case: value.mean for case, value in MEASURES[name].function(evidence, **arguments).items()}


def test_measures_over_the_widths():
    others = {"nc4_noisy": lambda width, error: 2 * error, "nc3_noisy": lambda width, error: 1 / width}
    evidence = curve(PEAKED, train_error=lambda width, error: 1 / width, **others)
    case = "ResNet1D SGD"
    assert measured("peak_position", evidence, column="width") == {case: pytest.approx(8)}
    flat = Evidence(curve(PEAKED).runs + curve({2: 0.3, 4: 0.2, 8: 0.1, 16: 0.05}, seeds=[3]).runs)
    whole, some = (MEASURES["peak_position"].function(one, column="width")[case] for one in (evidence, flat))
    assert whole.low == pytest.approx(8) == some.mean and np.isnan(some.low)  # a seed without a peak leaves no interval
    assert measured("widest_minus", evidence, what="peak") == {case: pytest.approx(-0.15)}
    assert measured("widest_minus", evidence, what="minimum") == {case: pytest.approx(-0.05)}
    together = measured("correlation", evidence, metrics=["nc4_noisy", "nc3_noisy"])
    assert together[f"{case} NC4 noisy"] == pytest.approx(1) and 0 < together[f"{case} NC3 noisy"] < 0.95
    rises = measured("at_error_peak_minus", evidence, metrics=["nc4_noisy", "nc3_noisy"], side="before")
    assert rises == {f"{case} NC4 noisy": pytest.approx(0.2), f"{case} NC3 noisy": pytest.approx(1 / 8 - 1 / 4)}
    assert measured("peak_rise", curve({2: 0.3, 4: 0.2, 8: 0.1})) == {case: 0}


def test_correlation_at_interpolation_leaves_out_the_widths_whose_mean_training_error_is_not_below_the_bound():
    """Within four widths the metric falls as the error rises; with the others it seems to rise with it."""
    errors = {2: 0.9, 4: 0.8, 8: 0.1, 16: 0.2, 32: 0.3, 64: 0.4}
    trained = {"train_error": lambda width, error: (error - errors[width]) * 9 + (0.02 if width < 8 else 0.0)}
    evidence = curve(errors, nc1_noisy=lambda width, error: -error if width > 4 else 1.0, **trained)
    (over_all,), (interpolating,), (too_few,) = (
        MEASURES["correlation"].function(evidence, ["nc1_noisy"], train_error_below=bound).values() for bound in (None, 0.01, 0.008)
    )
    assert over_all.mean > 0.5
    assert interpolating.mean == pytest.approx(-1) and interpolating.n == 3  # one seed's own training error is above the bound
    assert too_few.n == 0


def test_sgd_minus_adam_pairs_seeds_and_averages_widths():
    specs = exp1_specs([8, 32, 64], ["resnet1d"], ["sgd", "adam"], 2, [0, 1], 0.2, 0)
    runs = [fake(s, test_error=0.1 * s.seed + s.model.width / 1000 * (s.optimizer.name == "sgd")) for s in specs]
    (value,) = measures.sgd_minus_adam(Evidence(runs), ["test_error"], 32).values()
    assert value.mean == pytest.approx(0.048) and value.high - value.low == pytest.approx(0) and value.n == 2


def test_measures_over_the_epochs():
    specs = exp2_specs([12, 64], 1000, [0], 0.2, 0)
    calm, wild = (lambda e: 0.1 + 0.5 / e), (lambda e: 0.2 + 0.1 * (-1.0) ** np.arange(len(e)))
    learnt = dict(
        accuracy_unflipped=lambda e: e >= 10, accuracy_flipped=lambda e: e >= 100, accuracy_flipped_clean=lambda e: (e >= 10) & (e < 100)
    )
    evidence = Evidence([fake(s, test_error=wild if s.model.width == 12 else calm, **learnt) for s in specs])
    assert min(measured("fluctuation_difference", evidence, critical=12, large=64, from_epoch=11).values()) > 0.1
    assert max(measured("fluctuation_difference", evidence, critical=64, large=12, from_epoch=11).values()) < -0.1
    assert measured("memorisation_delay", evidence, width=64, level=0.9) == {"W = 64": pytest.approx(1)}
    assert measured("truth_before_noise", evidence, width=64, level=0.9) == {"W = 64": pytest.approx(1)}
    assert measured("worst_rebound", evidence, width=64) == {"W = 64": 0}
    assert measured("worst_rebound", evidence, width=12) == {"W = 12": pytest.approx(0.2)}
    assert measured("error_from", evidence, width=12, epoch=200)["W = 12"] == pytest.approx(0.2, abs=0.03)


def test_measures_over_the_feature_dimension():
    specs = exp3_specs([8, 9, 10], 16, 2, [0, 1], 0.2, 0)
    evidence = Evidence([fake(s, nc2_gram_noisy=1.5 * gram_floor(10, s.model.feature_dim) + 0.01) for s in specs])
    assert measured("nc2_over_floor", evidence, metric="nc2_gram_noisy", dims=[8])["d = 8"] == pytest.approx(0.5, abs=0.01)
    near = Evidence([fake(s, nc2_gram_noisy=gram_floor(10, s.model.feature_dim) + 0.01 * s.seed) for s in specs])
    excess = claims._cases(claims.chosen(["R13"])[0].checks[0], near)[-1]
    assert excess.name == "d = 8" and excess.value.low == 0 and excess.outcome == HELD  # no network comes below the floor
    drops = measured("dimension_drop", evidence, metrics=["nc2_gram_noisy"], pairs=[[8, 9]])
    assert drops == {"d = 8 → 9, NC2 Gram noisy": pytest.approx(1.5 * gram_floor(10, 8))}
    assert math.isnan(measured("at_dimension", evidence, metrics=["nc2_gram_noisy"], dims=[16])["d = 16, NC2 Gram noisy"])


def test_measures_of_representations():
    specs = exp4_specs(4, 8, 6, 2, 5, [0, 1], [0, 1, 2], 0.2, 0)
    evidence = Evidence([fake(spec, nc1_noisy=1 / spec.model.width) for spec in specs])
    assert measured("width_difference", evidence, metrics=["nc1_noisy"], of=4, minus=8) == {"NC1 noisy": pytest.approx(1 / 8)}
    drift = MEASURES["drift"].function(evidence, width=6, layers=["L0"], spans=[[1, 5], [1, 2000]])
    assert drift["L0 1–5"].mean == pytest.approx(1) and drift["L0 1–5"].n == 2 and drift["L0 1–2,000"].n == 0
    same = measured("similarity", evidence, left=6, right=6, layers=["L0", "L2"], debiased=[False])
    falls = measured("similarity_fall", evidence, left=6, right=6, pairs=[["L0", "L2"]], debiased=[False])
    assert falls["L0 − L2 CKA"] == pytest.approx(same["L0 CKA"] - same["L2 CKA"])
    xs, ys = ([evidence.seen(run, evidence.epoch)["L2"] for run in evidence.of_width(width)] for width in (4, 8))
    parts = representations.part_similarity(xs, ys, evidence.labels("clean"))
    excess = measured("mean_similarity", evidence, left=4, right=8, layer="L2", labels=["clean"])
    assert excess == {"L2 clean": pytest.approx(parts["means"].mean - parts["means_chance"].mean)}
    fewer = Evidence([run for run in evidence.runs if (run.spec.model.width, run.spec.seed) != (4, 1)])
    both = Evidence([run for run in evidence.runs if run.spec.seed != 1])
    whole, part = {"layers": ["L2"], "debiased": [False]}, {"layer": "L2", "labels": ["clean"]}
    for measure, arguments in (("similarity", whole), ("mean_similarity", part)):
        assert measured(measure, fewer, left=4, right=8, **arguments) == measured(measure, both, left=4, right=8, **arguments)
    shares = [measured("collapse_share", evidence, layers=[one], share="separation", labels=["clean"]) for one in ("L0", "L1", "L2")]
    assert sum(share["ResNet1D Adam W = 8 clean"] for share in shares) == pytest.approx(1)


# What is said of them


def test_exact_claims_are_judged_without_any_run():
    results = {result.claim.id: result for result in claims.evaluate(claims.chosen(["R08", "R15", "R20", "R22"]))}
    assert {name: result.verdict for name, result in results.items()} == {
        "R08": NOT_REPRODUCED, "R15": REPRODUCED, "R20": NOT_REPRODUCED, "R22": NOT_REPRODUCED
    }  # fmt: skip
    assert min(case.value.mean for case in results["R22"].cases[0]) == pytest.approx(1)
    ((wrong,),) = results["R08"].cases
    assert 0.175 < wrong.value.low < 0.18 < wrong.value.high < 0.185 and wrong.value.n == 20
    for language, sigma in (("it", "σ = 0,1: 1;"), ("en", "σ = 0.1: 1;")):
        assert sigma in verdicts.measured_texts(results["R22"], language)[0]
    assert all("(estrazioni: 20)" in text for text in verdicts.measured_texts(results["R08"], "it"))


@pytest.mark.parametrize("language", claims.LANGUAGES)
def test_the_command_prints_every_claim_with_verdict_and_reason(language, monkeypatch):
    monkeypatch.setattr(claims.Reads, "specs", lambda self, given=None: [])
    result = CliRunner().invoke(main, ["claims", "--language", language])
    assert result.exit_code == 0, result.output
    assert re.findall(r"^\W*([RF]\d\d)\b", result.output, re.MULTILINE) == [claim.id for claim in LEDGER]
    assert all(names[language] in result.output for names in claims.DOCUMENTS.values())
    assert result.output.count("→ ") >= len(LEDGER) and verdicts.WORDS[language][REPRODUCED] in result.output
    assert main.commands["claims"].help and CliRunner().invoke(main, ["claims", "R99"]).exit_code == 2


def test_the_table_has_a_row_for_each_claim_and_the_page_a_text_for_each():
    results = claims.evaluate(claims.chosen(["R08", "R15"]))
    for language in claims.LANGUAGES:
        table = verdicts.html_table(results, language).data
        assert re.findall(r'<tr id="verdict-(\w+)">', table) == ["R08", "R15"]
        assert verdicts.WORDS[language][NOT_REPRODUCED] in table and "<b>" in table and "`" not in table
        texts = verdicts.page_texts(results, language)
        assert texts["verdict_R15"] == REPRODUCED and texts["word_R15"] == verdicts.WORDS[language][REPRODUCED]
    assert set(verdicts.WORDS["it"]) == set(VERDICTS)


def test_where_a_claim_is_reproduced_in_part_the_word_says_in_how_many_cases(judged):
    result = judged(PEAKED)
    held, failed = (result.cases[0][0]._replace(outcome=outcome) for outcome in (HELD, claims.FAILED))
    result = dataclasses.replace(result, cases=((held, failed),), verdict=claims.PARTLY)
    assert verdicts.page_texts([result], "it")[f"word_{result.claim.id}"] == "riprodotta in parte, 1 su 2 casi"
    assert verdicts.page_texts([result], "en")[f"word_{result.claim.id}"] == "partly reproduced, 1 of 2 cases"


PROSE = [BOOK / f"{page}.md" for page in ("sommario", "introduzione", "metodologia", "conclusioni")] + sorted(BOOK.glob("fn_*.md"))
PROSE += sorted((BOOK.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.stem)
def test_no_page_names_a_verdict_by_itself(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    italian = r"\b(?:non |in parte )?(?:riprodott[aeio]|verificabil[ei])\b|\bindecis[aeio]\b|\bnon ancora a questa scala\b"
    named = re.findall(rf"{italian}|\b(?:not |partly )?reproduced\b|\bnot testable\b|\bnot yet at this scale\b", text, re.IGNORECASE)
    assert named == []


@pytest.mark.parametrize(
    ("document", "page", "role", "pages"),
    [
        ("report", "verdetti", "verdetto", ["sommario", "conclusioni"]),
        ("fn_star", "fn_verdicts", "verdict", ["fn_introduction", "fn_methods", "fn_conclusions"]),
    ],
)
def test_prose_takes_only_what_the_page_of_verdicts_gives_and_concludes_on_every_claim(document, page, role, pages):
    ids = {claim.id for claim in claims.chosen([], document)}
    texts = set(verdicts.page_texts(claims.evaluate([]), "it")) | (set(facts.texts()) if document == "report" else set())
    texts |= {f"{kind}_{id}" for id in ids for kind in ("verdict", "word", "measured", "reason")}
    sources = [(BOOK / f"{name}.md").read_text(encoding="utf-8") for name in pages]
    for text in sources:
        assert set(re.findall(rf"{page}\.ipynb::(\w+):s", text)) <= texts
        assert set(re.findall(rf"\{{{role}\}}`(\w+)`", text)) <= ids
    assert set(re.findall(rf"\{{{role}\}}`(\w+)`", sources[-1])) == ids


def test_what_the_report_s_own_numbers_show():
    texts = facts.texts()
    assert texts["nc3_uncentred_values"] == "2,42; 3,33; 4,01" and texts["nc3_standard_values"] == "0,00; 0,00; 0,00"
    assert texts["noise_nc1"] == "0,56" and texts["report_peak_width"] == "16" and texts["same_layer_difference"] == "0,00"
    assert (texts["hidden_curve"], texts["hidden_top"], texts["hidden_point"]) == ("CNN1D con SGD", "12.936", "5.936")
    assert not [name for name, text in texts.items() if "n.d." in text or "nan" in text]


def test_a_scale_of_its_own_parameters_is_named_in_the_command(judged):
    scale = {"epochs": 15000, "seeds": 2, "epochs_parameter": "drift_epochs", "seeds_parameter": "drift_seeds"}
    assert "`ncbook sweep exp1 -p drift_epochs 15000`" in verdicts.reason_text(judged(PEAKED, scale=scale), "en")


def test_the_seeds_that_count_are_those_trained_long_enough(tmp_path, monkeypatch):
    specs = exp4_specs(4, 8, 6, 2, 5, [0], [0, 1, 2], 0.2, 0)
    followed = [spec for spec in specs if spec.model.width == 6]
    monkeypatch.setattr(claims.Reads, "specs", lambda self, given=None: followed)
    store = Store(tmp_path / "runs", tmp_path / "none")
    for spec in followed:
        store.save(fake(spec, test_error=0.1))
    for epochs, seeds in ((2, 3), (5, 1)):
        claim = claims._claim({**CLAIM, "scale": {"epochs": epochs, "seeds": 3}})
        assert claims.evaluate([claim], store)[0].found == Found(missing=0, total=3, epochs=epochs, seeds=seeds, width=6)
