"""The command line, `ncbook`. Modules that import torch, papermill or pandas are imported inside the commands, so that help is quick."""

import functools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from ncbook import __version__
from ncbook.chapters import CHAPTERS, Chapter, ChapterError, chapter_specs, default_out, execute, find_chapter, parameters

if TYPE_CHECKING:
    from ncbook.store import Store


class _Sentences(click.Group):
    """Errors that ncbook itself defines, and those of the file system, end as one sentence: exit code 2 for bad input, else 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            own = isinstance(error, OSError) or type(error).__module__.startswith("ncbook.")
            if not own or isinstance(error, BrokenPipeError):  # click ends the latter quietly, as for `ncbook chapters | head -1`
                raise
            sentence = click.ClickException(str(error))
            sentence.exit_code = 2 if isinstance(error, ValueError) else 1
            raise sentence from error


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ncbook")
def main() -> None:
    """A book on double descent and neural collapse whose curves come from networks that you can train again.

    \b
    ncbook chapters                       what there is, and which parameters it takes
    ncbook run exp1                       the chapter as published; trains nothing
    ncbook run exp1 -p widths "[4, 8]" -p epochs 5 --out try
                                          the chapter with your parameters; trains what is missing
    ncbook compare try                    what differs from the published chapter
    ncbook claims                         what the documents claim, and what the runs say to it
    ncbook build [--pdf]                  the whole book as HTML, and as one PDF

    A network, once trained, is kept and never trained again: the published runs come with the book, yours lie in a folder of
    your own (set NCBOOK_RUNS to choose it; `ncbook runs` tells where). Every command says more with --help.
    """


class _EachOnce(yaml.SafeLoader):
    """YAML in which a mapping has no name twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.constructor.ConstructorError(problem=f"it has {twice[0]} twice")
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _EachOnce)
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that is none, and for a number too long to be read
        raise ChapterError(f"{where}: {text!r} is not YAML ({getattr(error, 'problem', None) or 'unreadable'}).") from None


def _given(pairs: tuple[tuple[str, str], ...], mappings: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of -y, then those of -p over them."""
    given: dict[str, Any] = {}
    for text in mappings:
        values = _read_yaml(text, "-y")
        if not isinstance(values, dict):
            raise ChapterError(f'-y: {text!r} is not a mapping of names to values: write it as "{{epochs: 5, widths: [4, 8]}}".')
        given |= values
    names = [name for name, _ in pairs]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ChapterError(f"-p {twice[0]} was given twice: give each parameter once.")
    return given | {name: _read_yaml(text, f"-p {name}") for name, text in pairs}


def _chapter_and_parameters(command: Callable) -> Callable:
    """Adds CHAPTER, -p and -y; the command gets `chapter` and `given`."""

    @click.argument("chapter_name", metavar="CHAPTER")
    @click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help='A parameter, its value in YAML: -p widths "[4, 8]".')
    @click.option("-y", "mappings", multiple=True, metavar="YAML", help='Several at once: -y "{epochs: 5, seeds: [0, 1]}"; -p wins.')
    @functools.wraps(command)
    def wrapped(*, chapter_name: str, pairs: tuple, mappings: tuple, **options: Any) -> Any:
        return command(chapter=find_chapter(chapter_name), given=_given(pairs, mappings), **options)

    return wrapped


@main.command()
def chapters() -> None:
    """List the chapters and their parameters.

    With each chapter, how many of the runs that its defaults need are there.
    """
    from ncbook.store import Store

    store = Store()
    for chapter in CHAPTERS.values():
        specs = chapter_specs(chapter, {})
        found = sum(spec.key in store for spec in specs)
        click.secho(f"{chapter.name}  {chapter.title}", bold=True)
        click.echo(f"  {chapter.notebook}: {found} of the {len(specs)} runs of its defaults are there.")
        for parameter in parameters(chapter).values():
            click.echo(f"  -p {parameter}" + (f"\n       {parameter.help}" if parameter.help else ""))
        click.echo()


@main.command()
@_chapter_and_parameters
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the executed notebook [ncbook-runs/CHAPTER-…].")
def run(chapter: Chapter, given: dict[str, Any], out: Path | None) -> None:
    """Execute a chapter with your parameters.

    Networks that nobody has trained yet are trained first; how long that will take is said before. The executed notebook appears only
    when all of it succeeded. `ncbook chapters` lists the parameters.

    \b
    ncbook run exp1 -p widths "[4, 8]" -p epochs 5 -p seeds "[0, 1]" --out try
    ncbook run exp1 -y "{models: [resnet1d], label_noise: 0.1}"
    """
    written = execute(chapter, given, out or default_out(chapter, given))
    click.echo(f"The executed notebook is {written}.")
    click.echo(f"`ncbook compare {written}` shows what differs from the published one.")


@main.command()
@_chapter_and_parameters
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop then, with the epoch; the same command resumes.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "tf32", "bf16", "float64"]), default="float32", show_default=True, help="Precision.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes [one per core].")
def sweep(chapter: Chapter, given: dict[str, Any], max_minutes: float | None, device: str, dtype: str, jobs: int | None) -> None:
    """Train the networks that a chapter needs.

    Those that are there are not trained again. How long the rest will take is said first. Stopped by Ctrl-C or by --max-minutes, the
    same command goes on from where it was.

    \b
    ncbook sweep exp1 -p seeds "[0, 1, 2]" --max-minutes 60
    """
    specs = chapter_specs(chapter, given)

    from ncbook.sweep import train_missing

    train_missing(specs, device=device, dtype=dtype, jobs=jobs, max_minutes=max_minutes)
    click.echo(f"All runs are there: `ncbook run {chapter.name}` with the same parameters trains nothing.")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False, metavar="[WITH]")
def compare(path: Path, other: Path | None) -> None:
    """Show what differs in a chapter executed again.

    PATH is the executed notebook, or the folder that `ncbook run --out` wrote; it is held against the published chapter, or against a
    second one, WITH. Parameters, verdicts, numbers, tables and figures that differ are written as a page beside the notebook.

    \b
    ncbook run exp1 -p seeds "[1]" --out try
    ncbook compare try
    """
    from ncbook.build import published_page
    from ncbook.compare import CompareError, read
    from ncbook.compare import compare as held_against
    from ncbook.compare_page import summary, write

    after = read(path)
    before = read(other or published_page(after.chapter))
    if before.path.resolve() == after.path.resolve():
        raise CompareError(f"{after.path} would be compared with itself: give another execution of {after.chapter.name}.")
    comparison = held_against(before, after)
    click.echo(summary(comparison))
    click.echo(f"The comparison is {write(comparison)}.")


@main.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--language", type=click.Choice(["en", "it"]), default="en", show_default=True)
def claims(ids: tuple[str, ...], language: str) -> None:
    """Judge the documents' claims by the runs.

    The claims with these IDs, or all of them: what each reports, what was measured, at which scale, the verdict, and after the arrow its
    reason. Nothing is trained. The criteria are in book/claims.yml.

    \b
    ncbook claims R01 F02
    """
    import shutil

    from ncbook.claims import DOCUMENTS, chosen, evaluate
    from ncbook.verdicts import text_table

    width, asked = min(shutil.get_terminal_size((140, 24)).columns, 180), chosen(ids)
    for document, names in DOCUMENTS.items():
        if of_document := [claim for claim in asked if claim.document == document]:
            click.echo(f"{names[language]}\n{text_table(evaluate(of_document), language, width)}\n")


@main.command()
@click.option("--pdf", is_flag=True, help="Print it into one PDF as well; needs Chromium.")
def build(pdf: bool) -> None:
    """Build the book as HTML.

    Chapters that are out of date are executed first. They are built from the published runs alone; nothing is trained.
    """
    from ncbook.build import build_book

    click.echo(f"The book is {build_book()}.")
    if pdf:
        from ncbook.pdf import build_pdf

        click.echo(f"The book as a PDF is {build_pdf()}.")


@main.group(invoke_without_command=True)
@click.pass_context
def runs(ctx: click.Context) -> None:
    """List, check, publish and carry trained runs.

    \b
    ncbook runs                           what is there, and where
    ncbook runs export exp1.zip exp1      on the machine that trained
    ncbook runs import exp1.zip           on the one that builds the book
    ncbook runs publish exp1              puts them into the book
    """
    if ctx.invoked_subcommand:
        return
    from ncbook.store import Store, StoreError

    store = Store()
    unreadable = 0
    groups: dict[tuple, list] = defaultdict(list)
    for key in store.keys():
        try:
            spec = store.load(key).spec
        except StoreError:
            unreadable += 1
        else:
            place = "published" if store.path(key).parent == store.published else "own"
            groups[place, spec.model.name, spec.optimizer.name, spec.epochs, spec.data.label_noise].append(spec)
    for (place, model, optimizer, epochs, noise), specs in sorted(groups.items()):
        widths = sorted({spec.model.width for spec in specs})
        extent = f"widths {widths[0]} to {widths[-1]}" if len(widths) > 1 else f"width {widths[0]}"
        counts = _count(len(specs), "run"), _count(len({spec.seed for spec in specs}), "seed")
        click.echo(f"{place:9}  {model} {optimizer} {epochs:,} epochs, label noise {noise:g}: {counts[0]} ({extent}, {counts[1]})")
    click.echo(f"The published runs are in {store.published}, your own in {store.own}.")
    if unreadable:
        click.echo(f"{unreadable} more cannot be read: `ncbook runs verify` names them.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _present(chapter: Chapter, given: dict[str, Any], store: "Store") -> list[str]:
    """The keys of the runs that the chapter needs, all of which must be in the store."""
    keys = [spec.key for spec in chapter_specs(chapter, given)]
    if missing := sum(key not in store for key in keys):
        command = f"`ncbook sweep {chapter.name}`" + (" with the same parameters" if given else "")
        raise ChapterError(f"{missing} of the {len(keys)} runs that {chapter.name} needs are not there: {command} trains them.")
    return keys


@runs.command()
def verify() -> None:
    """Read and check every run.

    The exit code is 1 if a file is not a sound run.
    """
    from ncbook.store import Store

    results = list(Store().verify())
    faults = [fault for _, fault in results if fault]
    for fault in faults:
        click.echo(fault, err=True)
    click.echo(f"{len(results) - len(faults)} of {len(results)} files are sound runs.")
    if faults:
        raise SystemExit(1)


@runs.command()
@_chapter_and_parameters
def publish(chapter: Chapter, given: dict[str, Any]) -> None:
    """Put a chapter's runs into the book.

    They are checked and copied to book/runs/, to be committed; without -p and -y, what the chapter's defaults need.
    """
    from ncbook.store import Store

    store = Store()
    keys = _present(chapter, given, store)
    click.echo(f"{store.publish(keys)} runs were added to {store.published}, which has all {len(keys)} that {chapter.name} needs.")


@runs.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("chapter_name", metavar="[CHAPTER]", required=False)
def export(file: Path, chapter_name: str | None) -> None:
    """Write runs into one FILE.

    All of them, or those that CHAPTER's defaults need; `ncbook runs import` reads the file on another machine.
    """
    from ncbook.store import Store

    if str(file) in CHAPTERS:
        raise ChapterError(f"{file} is a chapter: name the file first, ncbook runs export {file}.zip {file}.")
    store = Store()
    keys = _present(find_chapter(chapter_name), {}, store) if chapter_name else store.keys()
    click.echo(f"{store.export_runs(file, keys)} runs are in {file}.")


@runs.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def import_(file: Path) -> None:
    """Take the runs of an exported FILE.

    Each is checked; those that are here already stay as they are. The exit code is 1 if one was refused.
    """
    from ncbook.store import Store

    result = Store().import_runs(file)
    for sentence in result.refused:
        click.echo(sentence, err=True)
    click.echo(f"{result.new} runs are new, {result.present} were here before, {len(result.refused)} were refused.")
    if result.refused:
        raise SystemExit(1)
