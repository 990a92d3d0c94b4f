"""The book's chapters: which notebook, which runs it needs, which parameters it takes, and its execution through papermill."""

import ast
import difflib
import hashlib
import inspect
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ncbook.experiments import distinct_values, exp1_specs, exp2_specs, exp3_specs, exp4_specs
from ncbook.fn.experiments import (
    fn_activation_specs,
    fn_baseline_specs,
    fn_calibration_specs,
    fn_cifar_resnet20_specs,
    fn_conditions_specs,
    fn_depth_specs,
    fn_equilibrium_specs,
    fn_full_scale_specs,
    fn_grid_specs,
    fn_intervention_specs,
    fn_weight_decay_specs,
    fn_width_specs,
)
from ncbook.spec import TRAINING_POINTS, RunSpec, SpecError, require_integer

ROOT = Path(__file__).resolve().parent.parent
"""The clone of the book's repository: notebooks, pages and package lie side by side."""
NOTEBOOKS = ROOT / "notebooks"


class ChapterError(ValueError):
    """An unknown chapter, or parameters that it does not take; the message names the value, the reason and the way out."""


class ExecutionError(RuntimeError):
    """A notebook that failed; the message names the chapter and the error of the failing cell."""


@dataclass(frozen=True)
class Chapter:
    """A parameterised notebook and the runs that it shows."""

    name: str
    title: str
    notebook: Path
    specs: Callable[..., list[RunSpec]]
    """From notebook parameters of the same names to the runs that the notebook needs."""
    require: Callable[..., None] = lambda: None
    """Raises `SpecError` for impossible values of notebook parameters of the same names that decide no run."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as the notebook declares it: `name: type = default  # help`."""

    name: str
    type: str
    default: Any
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default!r}"


def _ledger_specs(document: str) -> Callable[[list[str]], list[RunSpec]]:
    """The specs function of the page of verdicts on a document's claims."""

    def specs(claims: list[str]) -> list[RunSpec]:
        from ncbook.claims import ledger_specs

        return ledger_specs(claims, document)

    return specs


def _experiments_specs(experiments: list[str], **given: Any) -> list[RunSpec]:
    """The runs of several chapters with these parameters, each at its defaults for the rest."""
    specs = [spec for name in experiments for spec in chapter_specs(find_chapter(name), given)]
    return list({spec.key: spec for spec in specs}.values())


def _report_specs(experiments: list[str]) -> list[RunSpec]:
    return _experiments_specs(distinct_values("experiments", experiments, ("exp1", "exp2", "exp3", "exp4")))


def _front_specs(model: str, optimizer: str) -> list[RunSpec]:
    return _experiments_specs(["exp1"], models=[model], optimizers=[optimizer])


def _require_classes(classes: list[int]) -> None:
    if len(distinct_values("classes", classes, range(10))) != 3:
        raise SpecError(f"classes={classes}: the figure lies in the plane of three class means; give three classes.")


def _require_probe(probe_points: int, probe_seed: int) -> None:
    require_integer("probe_points", probe_points, 4, TRAINING_POINTS["mnist1d"])  # debiased CKA needs four
    require_integer("probe_seed", probe_seed, 0)


def _require_margin(margin: float) -> None:
    if not 0 < margin < math.inf:
        raise SpecError(f"margin={margin} leaves no room for equivalence: give a positive share of fn*, such as 0.08.")


_SWEEPS = ("fn_weight_decay", "fn_activation", "fn_depth", "fn_width")
_PREDICTABLE = (*_SWEEPS, "fn_conditions", "fn_baseline", "fn_calibration", "fn_intervention", "fn_cifar_resnet20")
"""Without "fn_equilibrium": its runs are those of other chapters, trained on, and none may be a source of its own prediction."""


def _of_experiments(known: tuple[str, ...]) -> Callable[..., list[RunSpec]]:
    """The specs function of a page on the runs of several of these chapters of part two, on the same images."""

    def specs(experiments: list[str], data: str, subset: int, switch: int, epochs: int, seeds: list[int]) -> list[RunSpec]:
        chosen = distinct_values("experiments", experiments, known)
        return _experiments_specs(chosen, data=data, subset=subset, switch=switch, epochs=epochs, seeds=seeds)

    return specs


CHAPTERS = {
    chapter.name: chapter
    for chapter in (
        Chapter("exp1", "Test error and neural collapse over the parameters", NOTEBOOKS / "exp1_model_wise.ipynb", exp1_specs),
        Chapter("exp2", "Test error and neural collapse over the epochs", NOTEBOOKS / "exp2_epoch_wise.ipynb", exp2_specs),
        Chapter("exp3", "Neural collapse and the feature dimension", NOTEBOOKS / "exp3_feature_dim.ipynb", exp3_specs),
        Chapter("exp4", "Similarity of representations", NOTEBOOKS / "exp4_cka.ipynb", exp4_specs, _require_probe),
        Chapter("layers", "Where the collapse sits, layer by layer", NOTEBOOKS / "layers.ipynb", exp1_specs),
        Chapter(
            "explore_cka",
            "Explorer: similarity, layer by layer and pair by pair",
            NOTEBOOKS / "explore_cka.ipynb",
            exp4_specs,
            _require_probe,
        ),
        Chapter("composite", "The report's figure, drawn again", NOTEBOOKS / "figura_composita.ipynb", _report_specs),
        Chapter("explore_width", "Explorer: the width", NOTEBOOKS / "explore_width.ipynb", exp1_specs),
        Chapter("explore_dimension", "Explorer: the feature dimension", NOTEBOOKS / "explore_dimension.ipynb", exp3_specs),
        Chapter("verdicts", "The report's claims and their verdicts", NOTEBOOKS / "verdetti.ipynb", _ledger_specs("report")),
        Chapter("fn_verdicts", "The fn* paper's claims and their verdicts", NOTEBOOKS / "fn_verdicts.ipynb", _ledger_specs("fn_star")),
        Chapter("fn_baseline", "The baseline: one network, two losses", NOTEBOOKS / "fn_baseline.ipynb", fn_baseline_specs),
        Chapter("fn_depth", "Depth: which network collapses first, and at what norm", NOTEBOOKS / "fn_depth.ipynb", fn_depth_specs),
        Chapter("fn_activation", "Activation: speed and norm", NOTEBOOKS / "fn_activation.ipynb", fn_activation_specs),
        Chapter("fn_weight_decay", "Weight decay: how many regimes?", NOTEBOOKS / "fn_weight_decay.ipynb", fn_weight_decay_specs),
        Chapter("fn_width", "Width: is wider faster?", NOTEBOOKS / "fn_width.ipynb", fn_width_specs),
        Chapter("fn_full_scale", "On all images: activation and weight decay", NOTEBOOKS / "fn_full_scale.ipynb", fn_full_scale_specs),
        Chapter(
            "fn_conditions",
            "Training conditions: do they move the rate or the value?",
            NOTEBOOKS / "fn_conditions.ipynb",
            fn_conditions_specs,
        ),
        Chapter(
            "fn_intervention",
            "Scaled features: do they come back?",
            NOTEBOOKS / "fn_intervention.ipynb",
            fn_intervention_specs,
            _require_margin,
        ),
        Chapter(
            "fn_calibration",
            "Calibration: the settings that the paper leaves open",
            NOTEBOOKS / "fn_calibration.ipynb",
            fn_calibration_specs,
        ),
        Chapter("fn_cifar_resnet20", "ResNet-20 on CIFAR-10", NOTEBOOKS / "fn_cifar_resnet20.ipynb", fn_cifar_resnet20_specs),
        Chapter("fn_grid", "The grid: two architectures, two data sets", NOTEBOOKS / "fn_grid.ipynb", fn_grid_specs),
        Chapter(
            "fn_predictor",
            "The predictor: does the norm tell when collapse comes?",
            NOTEBOOKS / "fn_predictor.ipynb",
            _of_experiments(_PREDICTABLE),
        ),
        Chapter("explore_collapse", "Explorer: move the threshold", NOTEBOOKS / "explore_collapse.ipynb", _of_experiments(_SWEEPS)),
        Chapter("fn_equilibrium", "Is fn* more than an equilibrium?", NOTEBOOKS / "fn_equilibrium.ipynb", fn_equilibrium_specs),
        Chapter("front", "The first page and its figure", NOTEBOOKS / "front_page.ipynb", _front_specs, _require_classes),
    )
}


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def find_chapter(name: str) -> Chapter:
    """The chapter of that name. Raises `ChapterError` if there is none."""
    if name not in CHAPTERS:
        raise ChapterError(f"There is no chapter {name!r}: the chapters are {', '.join(CHAPTERS)}.{_hint(name, CHAPTERS)}")
    return CHAPTERS[name]


def parameters(chapter: Chapter) -> dict[str, Parameter]:
    """What the notebook's cell tagged `parameters` declares, in its order. Raises `ChapterError` if the notebook is not there."""
    from papermill import inspect_notebook

    if not chapter.notebook.is_file():
        raise ChapterError(f"The notebook of {chapter.name} is not at {chapter.notebook}: install ncbook from its clone, pip install -e .")
    declared = inspect_notebook(str(chapter.notebook)).values()
    return {d["name"]: Parameter(d["name"], d["inferred_type_name"], ast.literal_eval(d["default"]), d["help"]) for d in declared}


_SCALARS = {"bool": bool, "int": int, "float": float, "str": str}


def _convert(value: Any, declared: str) -> Any:
    """The value as the declared type; YAML reads 1 as a whole number and 1e-3 as text, both are floats. Raises `ValueError`."""
    if declared.startswith("list["):
        if not isinstance(value, list):
            raise ValueError
        return [_convert(item, declared.removeprefix("list[").removesuffix("]")) for item in value]
    if declared == "float" and not isinstance(value, bool) and isinstance(value, (int, str)):
        return float(value)
    if type(value) is not _SCALARS[declared]:
        raise ValueError
    return value


def check(chapter: Chapter, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values in the types that the notebook declares.

    Raises `ChapterError` for a name that the notebook does not have and for a value of another type.
    """
    known = parameters(chapter)
    values = {}
    for name, value in given.items():
        if name not in known:
            hint = _hint(str(name), known)
            raise ChapterError(f"{chapter.name} has no parameter {name!r}: its parameters are {', '.join(known)}.{hint}")
        try:
            values[name] = _convert(value, known[name].type)
        except (ValueError, OverflowError):
            raise ChapterError(f"{name}={value!r} is not of type {known[name].type}: {chapter.name} declares {known[name]}.") from None
    return values


def chapter_specs(chapter: Chapter, given: Mapping[str, Any]) -> list[RunSpec]:
    """The runs that the chapter needs with these parameters, the notebook's defaults for the rest.

    Raises `ChapterError` as `check`, and `SpecError` if a run, or what the notebook is to do with it, is impossible.
    """
    values = {name: parameter.default for name, parameter in parameters(chapter).items()} | check(chapter, given)

    def called(function: Callable) -> Any:
        return function(**{name: values[name] for name in inspect.signature(function).parameters})

    called(chapter.require)
    return called(chapter.specs)


def aims() -> dict[str, dict[str, Any]]:
    """By chapter: the parameters of book/aims.yml, beyond its defaults, that it is to have in the end."""
    return yaml.safe_load((ROOT / "book" / "aims.yml").read_text(encoding="utf-8"))


def changed(chapter: Chapter, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a mapping that has all of the chapter's parameters, and maybe more, those parameters that are not at their defaults."""
    return {name: values[name] for name, parameter in parameters(chapter).items() if values[name] != parameter.default}


def command(verb: str, chapter: Chapter, given: Mapping[str, Any]) -> str:
    """The command line that does something with a chapter and these parameters: `ncbook run exp1 -p widths "[4, 8]"`."""
    texts = {
        name: yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip() for name, value in given.items()
    }
    options = (f'-p {name} "{text}"' if " " in text or "[" in text else f"-p {name} {text}" for name, text in texts.items())
    return " ".join(["ncbook", verb, chapter.name, *options])


def default_out(chapter: Chapter, given: Mapping[str, Any]) -> Path:
    """Where `ncbook run` writes if not told: a folder under the current one, another one for other parameters."""
    values = json.dumps(check(chapter, given), sort_keys=True)
    return Path("ncbook-runs") / f"{chapter.name}-{hashlib.sha256(values.encode()).hexdigest()[:8]}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels started within compute with one thread: sums keep their order, and a page executed again is the same to the last digit."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def execute(chapter: Chapter, given: Mapping[str, Any], out: Path, *, train: bool = True) -> Path:
    """Trains what is missing, then executes the chapter's notebook; returns the executed one, `out`/<name of the notebook>.

    `train=False`: in silence, from runs that are there. It appears only if every cell succeeded; a failure leaves what was there before.
    Raises `ChapterError` and `SpecError` before anything runs, `SweepError` from training, `ExecutionError` if a cell fails.
    """
    specs = chapter_specs(chapter, given)
    target = out / chapter.notebook.name
    if target.resolve() == chapter.notebook.resolve():
        raise ChapterError(f"out={str(out)!r} holds the notebook's source, which would be overwritten: choose another folder.")

    import papermill
    from nbclient.exceptions import DeadKernelError

    from ncbook.sweep import train_missing

    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if train:
            train_missing(specs)
        with tempfile.TemporaryDirectory(prefix=f".{chapter.name}-", dir=out) as unfinished:
            written = Path(unfinished) / target.name
            with one_thread():
                papermill.execute_notebook(chapter.notebook, written, check(chapter, given), progress_bar=train)
            os.replace(written, target)
    except papermill.PapermillExecutionError as error:
        message = " ".join(error.evalue.split())
        raise ExecutionError(f"{chapter.name} failed in cell [{error.exec_count}] with {error.ename}: {message[:500]}") from error
    except DeadKernelError as error:
        raise ExecutionError(f"{chapter.name} failed: its kernel died, most likely for lack of memory.") from error
    finally:
        if created:
            with suppress(OSError):
                out.rmdir()  # goes only if nothing was written
    return target
