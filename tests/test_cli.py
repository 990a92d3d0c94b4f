"""The command line: what it prints, writes and refuses; the book's build."""

import errno
import json
import subprocess
import sys

import click
import nbformat
import numpy as np
import pytest
from click.testing import CliRunner

import ncbook.build
import ncbook.store
import ncbook.sweep
from ncbook.chapters import CHAPTERS, Chapter, chapter_specs
from ncbook.cli import main
from ncbook.experiments import exp1_specs
from ncbook.store import PROVENANCE, Run, Store

TOY = ["-p", "widths", "[2]", "-p", "models", "[resnet1d]", "-p", "optimizers", "[sgd]", "-p", "epochs", "2", "-p", "seeds", "[0, 1]"]
DEFAULTS = dict(models=["resnet1d"], optimizers=["sgd"], epochs=2, seeds=[0], label_noise=0.2, noise_seed=0)


def ncbook_run(*arguments, code=0):
    """(stdout, stderr) of the command, which must end with that exit code and no traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stdout, result.stderr


def write_notebook(path, *cells, widths="[2, 4]"):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    declared = nbformat.v4.new_code_cell(f"widths: list[int] = {widths}  # larghezze", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(metadata=metadata, cells=[declared, *cells])
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with a published folder of the test's own, for the commands too."""

    class IsolatedStore(Store):
        def __init__(self, own=None, published=tmp_path / "book" / "runs"):
            super().__init__(own, published)

    for module in (ncbook.store, ncbook.build, ncbook.sweep):
        monkeypatch.setattr(module, "Store", IsolatedStore)
    return IsolatedStore()


@pytest.fixture
def tiny(tmp_path, store, monkeypatch):
    """A registered chapter of two runs."""
    notebook = tmp_path / "notebooks" / "tiny.ipynb"
    title = nbformat.v4.new_markdown_cell("# Tiny")
    write_notebook(notebook, title, nbformat.v4.new_code_cell("assert widths != [13], 'unlucky'\nprint(sum(widths))"))
    chapter = Chapter("tiny", "A tiny chapter", notebook, lambda widths: exp1_specs(widths=widths, **DEFAULTS))
    monkeypatch.setitem(CHAPTERS, "tiny", chapter)
    return chapter


def keep_runs(store, specs):
    """Stores invented runs of these specs."""
    provenance = {name: {} if name == "versions" else 1 for name in PROVENANCE}
    for spec in specs:
        epochs = np.array(spec.recorded_epochs)
        store.save(Run(spec, provenance, epochs, {"test_error": 1 / epochs}, {spec.epochs: {"head.weight": np.zeros((10, 2))}}))


def test_help_teaches_by_examples():
    assert 'ncbook run exp1 -p widths "[4, 8]" -p epochs 5' in ncbook_run("--help")[0]
    for command in ("chapters", "run", "sweep", "runs", "build"):
        assert ncbook_run(command, "--help")[0].startswith(f"Usage: main {command}")


def test_help_imports_nothing_heavy():
    code = "import sys, ncbook.cli; print({'torch', 'papermill', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tinny"], f"There is no chapter 'tinny': the chapters are {', '.join([*CHAPTERS, 'tiny'])}. Did you mean tiny?"),
        (["run", "tiny", "-p", "width", "[4]"], "tiny has no parameter 'width': its parameters are widths. Did you mean widths?"),
        (["run", "tiny", "-p", "widths", "4"], "widths=4 is not of type list[int]: tiny declares widths: list[int] = [2, 4]."),
        (["run", "tiny", "-p", "title", "2026-13-01"], "-p title: '2026-13-01' is not YAML (unreadable)."),
        (["run", "tiny", "-p", "widths", "[4"], "-p widths: '[4' is not YAML (expected ',' or ']', but got '<stream end>')."),
        (["run", "tiny", "-y", "{widths: [4], widths: [6]}"], "-y: '{widths: [4], widths: [6]}' is not YAML (it has widths twice)."),
        (["run", "tiny", "-p", "widths", "[4]", "-p", "widths", "[6]"], "-p widths was given twice: give each parameter once."),
        (
            ["run", "front", "-p", "classes", "[0, 1]"],
            "classes=[0, 1]: the figure lies in the plane of three class means; give three classes.",
        ),
        (["run", "exp4", "-p", "probe_points", "3"], "probe_points=3 is too small: it must be at least 4."),
        (["run", "exp4", "-p", "probe_points", "4001"], "probe_points=4001 is too large: it must be at most 4,000."),
        (
            ["run", "fn_intervention", "-p", "margin", "-1"],
            "margin=-1.0 leaves no room for equivalence: give a positive share of fn*, such as 0.08.",
        ),
        (
            ["run", "fn_baseline", "-p", "data", "cifar100"],
            "data='cifar100' is unknown: choose one of mnist, fashion_mnist, cifar10, digits.",
        ),
        (["run", "tiny", "-y", "[4]"], "-y: '[4]' is not a mapping of names to values: write it as \"{epochs: 5, widths: [4, 8]}\"."),
        (["run", "tiny", "-y", "{widths: [a]}"], "widths=['a'] is not of type list[int]: tiny declares widths: list[int] = [2, 4]."),
        (["run", "tiny", "-p", "widths", "[]"], "widths=[] is empty: give at least one value."),
        (["run", "tiny", "-p", "widths", "[-4]"], "model.width=-4 is too small: it must be at least 1."),
        (["sweep", "tiny", "-p", "widths", "[4, 4]"], "widths=[4, 4] has 4 twice: give each value once."),
        (["runs", "publish", "tiny"], "2 of the 2 runs that tiny needs are not there: `ncbook sweep tiny` trains them."),
        (
            ["runs", "publish", "tiny", "-p", "widths", "[6]"],
            "1 of the 1 runs that tiny needs are not there: `ncbook sweep tiny` with the same parameters trains them.",
        ),
        (["runs", "export", "tiny"], "tiny is a chapter: name the file first, ncbook runs export tiny.zip tiny."),
        (["runs", "export", "all.zip", "tiny"], "2 of the 2 runs that tiny needs are not there: `ncbook sweep tiny` trains them."),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tiny, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert ncbook_run(*arguments, code=2) == ("", f"Error: {message}\n")
    assert sorted(tmp_path.iterdir()) == before


def test_a_reader_who_has_seen_enough_is_no_error(monkeypatch):
    def stop(*arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(click, "echo", stop)
    result = CliRunner().invoke(main, ["chapters"])
    assert result.exit_code == 1 and not result.stderr


def test_p_wins_over_y_and_y_takes_several(tiny, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep_runs(store, chapter_specs(tiny, {"widths": [6]}))
    out, _ = ncbook_run("run", "tiny", "-y", "{widths: [8]}", "-p", "widths", "[6]")
    assert "1 run: all found." in out
    (written,) = tmp_path.glob("ncbook-runs/tiny-*/tiny.ipynb")
    assert f"The executed notebook is {written.relative_to(tmp_path)}." in out
    assert nbformat.read(written, as_version=4).cells[-1].outputs[0].text == "6\n"


def test_failing_notebook_is_told_in_one_sentence(tiny, store, tmp_path):
    keep_runs(store, chapter_specs(tiny, {"widths": [13]}))
    _, err = ncbook_run("run", "tiny", "-p", "widths", "[13]", "--out", tmp_path / "out", code=1)
    assert err.splitlines()[-1] == "Error: tiny failed in cell [3] with AssertionError: unlucky"
    assert not (tmp_path / "out").exists()


def test_chapters_lists_parameters_and_runs(tiny, store):
    keep_runs(store, chapter_specs(tiny, {"widths": [2]}))
    out, _ = ncbook_run("chapters")
    assert "tiny  A tiny chapter" in out
    assert f"{tiny.notebook}: 1 of the 2 runs of its defaults are there." in out
    assert "-p widths: list[int] = [2, 4]\n       larghezze" in out


def test_runs_tells_what_is_there_and_where(tiny, store):
    keep_runs(store, chapter_specs(tiny, {}))
    store.publish([chapter_specs(tiny, {"widths": [2]})[0].key])
    (store.own / f"{'0' * 20}.npz").write_bytes(b"damaged")
    out, _ = ncbook_run("runs")
    assert out.splitlines() == [
        "own        resnet1d sgd 2 epochs, label noise 0.2: 1 run (width 4, 1 seed)",
        "published  resnet1d sgd 2 epochs, label noise 0.2: 1 run (width 2, 1 seed)",
        f"The published runs are in {store.published}, your own in {store.own}.",
        "1 more cannot be read: `ncbook runs verify` names them.",
    ]


def test_verify_names_a_damaged_file(tiny, store):
    keep_runs(store, chapter_specs(tiny, {}))
    assert ncbook_run("runs", "verify") == ("2 of 2 files are sound runs.\n", "")
    damaged = store.own / f"{chapter_specs(tiny, {})[0].key}.npz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    out, err = ncbook_run("runs", "verify", code=1)
    assert out == "1 of 2 files are sound runs.\n"
    assert str(damaged) in err


def test_publish_copies_what_the_defaults_need(tiny, store):
    keep_runs(store, chapter_specs(tiny, {"widths": [2, 4, 6]}))
    assert ncbook_run("runs", "publish", "tiny")[0] == f"2 runs were added to {store.published}, which has all 2 that tiny needs.\n"
    assert {file.stem for file in store.published.iterdir()} == {spec.key for spec in chapter_specs(tiny, {})}
    assert ncbook_run("runs", "publish", "tiny")[0].startswith("0 runs were added")


def test_runs_travel_as_one_file(tiny, store, tmp_path, monkeypatch):
    keep_runs(store, chapter_specs(tiny, {"widths": [2, 4, 6]}))
    file = tmp_path / "runs.zip"
    assert ncbook_run("runs", "export", file)[0] == f"3 runs are in {file}.\n"
    assert ncbook_run("runs", "export", file, "tiny")[0] == f"2 runs are in {file}.\n"
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "elsewhere"))
    assert ncbook_run("runs", "import", file)[0] == "2 runs are new, 0 were here before, 0 were refused.\n"
    assert ncbook_run("runs", "import", file)[0] == "0 runs are new, 2 were here before, 0 were refused.\n"
    assert len(list((tmp_path / "elsewhere").glob("*.npz"))) == 2


def test_import_refuses_what_is_no_export(store, tmp_path):
    file = tmp_path / "runs.zip"
    file.write_bytes(b"no archive")
    _, err = ncbook_run("runs", "import", file, code=1)
    assert err.startswith(f"Error: {file} cannot be imported")
    assert len(err.splitlines()) == 1


def test_build_refuses_to_train(tiny, store, monkeypatch):
    keep_runs(store, chapter_specs(tiny, {}))
    monkeypatch.setattr(ncbook.build, "CHAPTERS", {"tiny": tiny})
    assert ncbook_run("build", code=1)[1] == (
        "Error: 2 of the 2 runs that tiny needs are not published, and a build trains nothing: `ncbook sweep tiny` trains them, "
        "then `ncbook runs publish tiny` puts them into the book.\n"
    )


def test_build_does_what_is_out_of_date_and_no_more(tiny, store, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ncbook.build, "CHAPTERS", {"tiny": tiny})
    for name, path in {"ROOT": tmp_path, "EXECUTED": tmp_path / "executed", "HTML": tmp_path / "_build" / "html"}.items():
        monkeypatch.setattr(ncbook.build, name, path)
    keep_runs(store, chapter_specs(tiny, {}))
    store.publish(store.keys())
    (tmp_path / "requirements.txt").write_text("sphinx==1\n")
    (tmp_path / "_config.yml").write_text('title: Tiny\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n')
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters: [{file: executed/tiny}]\n")
    (tmp_path / "book" / "index.md").write_text("# First\n")
    executed, page = tmp_path / "executed" / "tiny.ipynb", tmp_path / "_build" / "html" / "index.html"
    rendered = page.parent / "book" / "index.html"

    def build(code=0):
        result = ncbook_run("build", code=code), (executed.stat().st_mtime_ns, rendered.stat().st_mtime_ns)
        capfd.readouterr()
        return result

    (out, _), first = build()
    assert out.endswith(f"The book is {page}.\n")
    assert build()[1] == first

    (tmp_path / "requirements.txt").write_text("sphinx==2\n")
    _, renewed = build()
    assert renewed[0] > first[0] and renewed[1] > first[1]

    (tmp_path / "book" / "index.md").write_text("# Second\n")
    _, second = build()
    assert second[0] == renewed[0]
    assert "Second" in rendered.read_text()

    write_notebook(tiny.notebook, nbformat.v4.new_markdown_cell("# Changed"), widths="[2]")
    (tmp_path / "book" / "index.md").write_text("# Third\n\n[nowhere](nowhere.md)\n")
    for _ in range(2):  # a fault is told again, not hidden by what an earlier build left
        (_, err), third = build(code=1)
        assert err.endswith("Error: Jupyter Book found fault with the pages: mend what it reports above, then build again.\n")
    assert third[0] > second[0]
    assert "Changed" in (page.parent / "executed" / "tiny.html").read_text()


def test_chapter_runs_from_any_folder_and_trains_only_once(tmp_path, own_store):
    (tmp_path / "anywhere").mkdir()

    def run():
        command = [sys.executable, "-m", "ncbook", "run", "exp1", *TOY, "--out", "out"]
        return subprocess.run(command, cwd=tmp_path / "anywhere", capture_output=True, text=True)

    first = run()
    assert first.returncode == 0, first.stderr
    assert "2 runs: 0 found, 2 to train" in first.stdout
    made = {file: file.stat().st_mtime_ns for file in own_store.glob("*.npz")}
    assert len(made) == 2
    notebook = json.loads((tmp_path / "anywhere" / "out" / "exp1_model_wise.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert any("image/svg+xml" in output.get("data", {}) or "image/png" in output.get("data", {}) for output in outputs)

    second = run()
    assert second.returncode == 0, second.stderr
    assert "2 runs: all found." in second.stdout
    assert {file: file.stat().st_mtime_ns for file in own_store.glob("*.npz")} == made
