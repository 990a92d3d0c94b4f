"""Chapters: their specs, the parameters that their notebooks declare, and execution."""

import ast
from dataclasses import replace

import nbformat
import pytest

from ncbook.chapters import (
    CHAPTERS,
    Chapter,
    ChapterError,
    ExecutionError,
    aims,
    changed,
    chapter_specs,
    check,
    default_out,
    execute,
    find_chapter,
    parameters,
)
from ncbook.experiments import exp1_specs
from ncbook.spec import SpecError
from ncbook.store import Store

EXP1 = dict(widths=[4, 8], models=["resnet1d", "cnn1d"], optimizers=["sgd", "adam"], epochs=5, seeds=[0, 1], label_noise=0.2, noise_seed=3)
PARAMETERS = """\
widths: list[int] = [2, 4]  # larghezze delle reti
rates: list[float] = [0.1]
share: float = 0.5  # una quota
title: str = "tiny"
strict: bool = True
"""


def tiny_specs(widths: list[int]) -> list:
    return exp1_specs(**EXP1 | {"widths": widths})


@pytest.fixture
def tiny(tmp_path):
    """A chapter whose notebook prints its first parameter, and fails for widths=[13]."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    notebook.cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('widths are', widths)\nif widths == [13]:\n    raise RuntimeError('unlucky\\nwidths')"),
    ]
    source = tmp_path / "source" / "tiny.ipynb"
    source.parent.mkdir()
    nbformat.write(notebook, source)
    return Chapter("tiny", "A tiny chapter", source, tiny_specs)


@pytest.fixture
def untrained(tiny):
    """The same chapter, checking its parameters but needing no runs."""
    return replace(tiny, specs=lambda widths: tiny_specs(widths)[:0])


def test_exp1_specs_are_the_report_s_settings():
    specs = exp1_specs(**EXP1)
    assert len({spec.key for spec in specs}) == 16
    sgd, adam = (next(s.optimizer for s in specs if s.optimizer.name == name) for name in ("sgd", "adam"))
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.schedule) == (0.01, 0.9, 5e-4, "cosine")
    assert (adam.lr, adam.momentum, adam.weight_decay, adam.schedule) == (1e-3, 0.0, 1e-4, "constant")
    assert {(s.model.name, s.model.width, s.seed) for s in specs} == {(m, w, i) for m in EXP1["models"] for w in (4, 8) for i in (0, 1)}
    assert {(s.epochs, s.snapshots, s.batch_size, s.data.label_noise, s.data.noise_seed) for s in specs} == {(5, (5,), 128, 0.2, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, "widths=[] is empty: give at least one value."),
        ({"widths": [4, -8]}, "model.width=-8 is too small: it must be at least 1."),
        (
            {"widths": "[4, 8]"},
            "widths='[4, 8]' is not a list: write one, even of a single value (papermill itself takes lists by -y only).",
        ),
        ({"seeds": [0, 1, 0]}, "seeds=[0, 1, 0] has 0 twice: give each value once."),
        ({"models": ["resnet2d"]}, "models=['resnet2d'] has 'resnet2d', an unknown one: choose from resnet1d, cnn1d."),
        ({"optimizers": ["sgd", "lion"]}, "optimizers=['sgd', 'lion'] has 'lion', an unknown one: choose from sgd, adam."),
        ({"epochs": 0}, "epochs=0 is too small: it must be at least 1."),
        ({"label_noise": 1.0}, "data.label_noise=1.0 is outside [0, 1)."),
    ],
)
def test_exp1_specs_refuse(change, message):
    with pytest.raises(SpecError) as error:
        exp1_specs(**EXP1 | change)
    assert str(error.value) == message


def test_parameters_are_what_the_notebook_declares(tiny):
    declared = parameters(tiny)
    assert {p.name: (p.type, p.default, p.help) for p in declared.values()} == {
        "widths": ("list[int]", [2, 4], "larghezze delle reti"),
        "rates": ("list[float]", [0.1], ""),
        "share": ("float", 0.5, "una quota"),
        "title": ("str", "tiny", ""),
        "strict": ("bool", True, ""),
    }
    assert str(declared["widths"]) == "widths: list[int] = [2, 4]"


def test_values_take_the_declared_types(tiny):
    given = {"widths": [4], "share": 1, "rates": ["1e-3", 2, 0.5], "strict": False}
    values = check(tiny, given)
    assert values == {"widths": [4], "share": 1.0, "rates": [0.001, 2.0, 0.5], "strict": False}
    assert type(values["share"]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": [4]}, "tiny has no parameter 'width': its parameters are widths, rates, share, title, strict. Did you mean widths?"),
        ({"xyz": 1}, "tiny has no parameter 'xyz': its parameters are widths, rates, share, title, strict."),
        ({3: 1}, "tiny has no parameter 3: its parameters are widths, rates, share, title, strict."),
        ({"widths": 4}, "widths=4 is not of type list[int]: tiny declares widths: list[int] = [2, 4]."),
        ({"widths": [4, 8.5]}, "widths=[4, 8.5] is not of type list[int]: tiny declares widths: list[int] = [2, 4]."),
        ({"widths": [True]}, "widths=[True] is not of type list[int]: tiny declares widths: list[int] = [2, 4]."),
        ({"share": "half"}, "share='half' is not of type float: tiny declares share: float = 0.5."),
        ({"share": True}, "share=True is not of type float: tiny declares share: float = 0.5."),
        ({"share": 10**400}, f"share={10**400} is not of type float: tiny declares share: float = 0.5."),
        ({"share": None}, "share=None is not of type float: tiny declares share: float = 0.5."),
        ({"title": 1}, "title=1 is not of type str: tiny declares title: str = 'tiny'."),
        ({"strict": 1}, "strict=1 is not of type bool: tiny declares strict: bool = True."),
    ],
)
def test_unknown_names_and_wrong_types_are_refused(tiny, given, message):
    with pytest.raises(ChapterError) as error:
        check(tiny, given)
    assert str(error.value) == message


def test_specs_follow_the_given_parameters_and_the_defaults(tiny):
    assert {spec.model.width for spec in chapter_specs(tiny, {})} == {2, 4}
    assert {spec.model.width for spec in chapter_specs(tiny, {"widths": [6], "share": 0.1})} == {6}


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=CHAPTERS)
def test_each_notebook_declares_all_that_its_cell_assigns_with_help_and_fits_its_specs(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    assigned = [node.target.id for node in ast.parse(cells[0].source).body if isinstance(node, ast.AnnAssign)]
    declared = parameters(chapter)
    assert list(declared) == assigned
    assert all(parameter.help for parameter in declared.values())
    assert check(chapter, {name: parameter.default for name, parameter in declared.items()})
    assert len(chapter_specs(chapter, {})) == len({spec.key for spec in chapter_specs(chapter, {})})


def test_unknown_chapter_is_refused():
    with pytest.raises(ChapterError, match=r"^There is no chapter 'exp_1': the chapters are exp1.*\. Did you mean exp1\?$"):
        find_chapter("exp_1")


def test_missing_notebook_is_refused(tmp_path):
    gone = Chapter("gone", "", tmp_path / "gone.ipynb", tiny_specs)
    with pytest.raises(ChapterError) as error:
        parameters(gone)
    assert str(error.value) == f"The notebook of gone is not at {gone.notebook}: install ncbook from its clone, pip install -e ."


def test_default_folder_differs_with_the_parameters(tiny):
    folders = {default_out(tiny, given) for given in ({}, {"widths": [4]}, {"widths": [8]})}
    assert len(folders) == 3
    assert default_out(tiny, {"share": 1, "widths": [4]}) == default_out(tiny, {"widths": [4], "share": 1.0})


def test_execution_writes_the_notebook_and_nothing_else(untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = execute(untrained, {"widths": [4]}, tmp_path / "deep" / "out")
    assert [written] == list((tmp_path / "deep" / "out").iterdir())
    notebook = nbformat.read(written, as_version=4)
    assert notebook.cells[-1].outputs[0].text == "widths are [4]\n"


def test_failure_is_told_in_short_and_leaves_what_was_there(untrained, tmp_path):
    with pytest.raises(ExecutionError) as error:
        execute(untrained, {"widths": [13]}, tmp_path / "out")
    assert str(error.value) == "tiny failed in cell [3] with RuntimeError: unlucky widths"
    assert not (tmp_path / "out").exists()

    earlier = execute(untrained, {}, tmp_path / "out").read_bytes()
    with pytest.raises(ExecutionError):
        execute(untrained, {"widths": [13]}, tmp_path / "out")
    assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == [earlier]


@pytest.mark.parametrize(
    ("name", "stranger"), [("fn_predictor", "exp1"), ("fn_predictor", "fn_equilibrium"), ("explore_collapse", "fn_conditions")]
)
def test_pages_on_several_chapters_take_those_that_fit(name, stranger):
    for experiments, message in (
        ([stranger], f"has '{stranger}', an unknown one: choose from fn_weight_decay"),
        ([], "is empty: give at least one value"),
        (["fn_depth", "fn_depth"], "has 'fn_depth' twice"),
    ):
        with pytest.raises(SpecError, match=message):
            chapter_specs(CHAPTERS[name], {"experiments": experiments})


def test_the_reports_figure_shows_its_own_experiments_only():
    with pytest.raises(SpecError, match=r"has 'fn_depth', an unknown one: choose from exp1, exp2, exp3, exp4\.$"):
        chapter_specs(CHAPTERS["composite"], {"experiments": ["exp1", "fn_depth"]})


def test_nothing_runs_with_an_impossible_spec_or_over_the_source(untrained, tmp_path):
    with pytest.raises(SpecError, match=r"^model\.width=0 is too small"):
        execute(untrained, {"widths": [0]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    source = untrained.notebook.read_bytes()
    with pytest.raises(ChapterError, match=r"^out='.*' holds the notebook's source, which would be overwritten: choose another folder\.$"):
        execute(untrained, {}, untrained.notebook.parent)
    assert untrained.notebook.read_bytes() == source


def test_the_book_holds_the_runs_that_its_chapters_need_or_aim_at_and_no_others():
    needed = {spec.key for chapter in CHAPTERS.values() for spec in chapter_specs(chapter, {})}
    aimed_at = {spec.key for name, given in aims().items() for spec in chapter_specs(find_chapter(name), given)}
    files = list(Store().published.iterdir())
    held = {path.name.removesuffix(".npz") for path in files}
    assert needed <= held <= needed | aimed_at


def test_every_aim_goes_beyond_what_its_chapter_has():
    for name, given in aims().items():
        chapter = find_chapter(name)
        defaults = {one.name: one.default for one in parameters(chapter).values()}
        assert changed(chapter, defaults | check(chapter, given)) == given


def test_the_size_of_the_published_runs_has_room_to_grow():
    files = Store().published.iterdir()
    assert sum(path.stat().st_size for path in files) < 25e6
