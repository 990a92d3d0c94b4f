"""The explorers of collapse and of CKA in the built book, by keyboard alone: every option shows the numbers of its published runs."""

from collections.abc import Iterable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from ncbook.analysis import estimate
from ncbook.chapters import CHAPTERS, chapter_specs, parameters
from ncbook.data import load
from ncbook.explore import cka, collapse
from ncbook.fn.onset import onsets
from ncbook.fn.pages import with_interval
from ncbook.metrics import linear_cka
from ncbook.pages import number
from ncbook.representations import probe, representation
from ncbook.sweep import load_runs, table


@pytest.fixture(params=["http", "file"])
def address(request, html) -> str:
    return request.getfixturevalue("served") if request.param == "http" else html.as_uri()


def defaults(chapter: str) -> dict:
    return {name: parameter.default for name, parameter in parameters(CHAPTERS[chapter]).items()}


def each_option(control: Locator, texts: Iterable[str]) -> Iterator[str]:
    """Goes through all options of a list, which are to be these, by the arrow keys; gives each one's text once it is chosen."""
    texts = list(texts)
    expect(control.locator("option")).to_have_text(texts)
    control.press("Home")
    for place, text in enumerate(texts):
        if place:
            control.press("ArrowDown")
        expect(control).to_have_value(text)
        yield text


def each_step(slider: Locator, texts: Iterable[str]) -> Iterator[str]:
    """Goes through the options of a slider, which are to be these, by the arrow keys; gives each one's text once it is chosen."""
    slider.press("Home")
    for text in texts:
        expect(slider).to_have_attribute("aria-valuetext", text)
        yield text
        slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", text)


def test_the_collapse_explorer_reads_off_at_every_threshold_what_the_runs_say(open_page, address: str) -> None:
    given = defaults("explore_collapse")
    names = given.pop("experiments")
    shown = collapse.selections({name: table(load_runs(chapter_specs(CHAPTERS[name], given))) for name in names})
    thresholds = [f"{threshold:g}" for threshold in collapse.THRESHOLDS]
    page, faults = open_page(f"{address}/executed/explore_collapse.html")
    explorer = page.locator(".widget-subarea")
    runs, threshold = explorer.locator("select"), explorer.get_by_role("slider", name="NC1 below")

    def shows(text: str, level: str) -> None:
        expect(explorer.get_by_role("img", name=f"{text}. NC1 and feature norm")).to_be_visible()
        expect(explorer.get_by_role("img", name=f"{text}, NC1 below {level}. ")).to_be_visible()
        found = onsets(shown[text].table, float(level))
        for row, (_, cell) in enumerate(found.groupby(shown[text].by)):
            line = explorer.locator("tbody tr").nth(row)
            never, stayed = cell["censored"].all(), cell[~cell["one_point"]]
            end = f">\u00a0{stayed['last_epoch'].min()}" if len(stayed) else f"one point at {cell['last_epoch'].min()}"
            time = estimate(cell["T_NC"]).within(given["switch"])
            mean = with_interval(time, 1)
            bound = f"≥\u00a0{mean.split()[0]}" if cell["censored"].any() else mean
            expect(line).to_contain_text(end if never else bound)
            expect(line).to_contain_text("n/a" if never else with_interval(estimate(cell["fn_star"]).within(0)))

    for level in each_step(threshold, thresholds):
        shows(next(iter(shown)), level)
    for text in each_option(runs, shown):
        shows(text, thresholds[-1])
    threshold.press("Home")
    shows(text, thresholds[0])
    course, marks = (drawing.bounding_box() for drawing in explorer.get_by_role("img").all())
    assert course == marks  # the marks lie on the curves that they belong to
    assert faults == []
    page.close()


@pytest.fixture(scope="module")
def seen() -> dict:
    """(width, seed, epoch) -> representation, of the networks of the CKA explorers."""
    given = defaults("explore_cka")
    runs = load_runs(chapter_specs(CHAPTERS["explore_cka"], {}))
    data = load(runs[0].spec.data)
    x = data.x_train[probe(data, given["probe_points"], given["probe_seed"])]
    return {(run.spec.model.width, run.spec.seed, epoch): representation(run, epoch, x) for run in runs for epoch in run.states}


def test_the_cka_explorers_show_the_similarity_of_any_two_networks(open_page, address: str, seen: dict) -> None:
    given = defaults("explore_cka")
    small, large, width, last, seeds = (given[name] for name in ("small_width", "large_width", "width", "epochs", "seeds"))
    page, faults = open_page(f"{address}/executed/explore_cka.html")
    widths_explorer, seeds_explorer, past_explorer = (page.locator(".widget-subarea").nth(place) for place in range(3))

    def shows(explorer: Locator, first: tuple, second: tuple, row: str, column: str, caption: str, at: tuple[int, int]) -> None:
        """Both maps, in the cell of that row and column (both counted from 1)."""
        for place, debiased in enumerate((False, True)):
            heat = explorer.locator("table").nth(place)
            expect(heat.locator("caption")).to_contain_text(caption)
            value = float(linear_cka(seen[first][row], seen[second][column], debiased))
            expect(heat.locator("tbody tr").nth(at[0] - 1).locator("td").nth(at[1] - 1)).to_have_text(number(value, 2))

    both, pair = widths_explorer.locator("select").all()
    pairs = [f"{a} e {b}" for a in seeds for b in seeds]
    for text in each_option(pair, [cka.ALL, *pairs]):
        if text != cka.ALL:
            a, b = map(int, text.split(" e "))
            caption = f"W = {small}, seme {a} (righe) e W = {large}, seme {b} (colonne), epoca {number(last, 0)}"
            shows(widths_explorer, (small, a, last), (large, b, last), "L1", "L2", caption, (2, 3))
    for text in each_option(both, [f"{small} e {large}", f"{small} e {width}", f"{large} e {width}"]):
        a, b = map(int, text.split(" e "))
        ends = [(w, seeds[-1], last) for w in (a, b)]
        caption = f"W = {a}, seme {seeds[-1]} (righe) e W = {b}, seme {seeds[-1]} (colonne), epoca {number(last, 0)}"
        shows(widths_explorer, *ends, "L2", "L0", caption, (3, 1))

    pair, slider = seeds_explorer.locator("select"), seeds_explorer.get_by_role("slider", name="Epoca")
    kept = sorted(set.intersection(*({e for w, s, e in seen if (w, s) == (width, seed)} for seed in seeds)))
    pairs = [f"{a} e {b}" for a in seeds for b in seeds if a < b]
    list(each_option(pair, [cka.ALL, *pairs]))
    for epoch in each_step(slider, [number(epoch, 0) for epoch in kept]):
        moments = [(width, seed, int(epoch.replace(".", ""))) for seed in seeds[-2:]]
        caption = f"W = {width}, seme {seeds[-2]} (righe) e W = {width}, seme {seeds[-1]} (colonne), epoca {epoch}"
        shows(seeds_explorer, *moments, "L0", "L1", caption, (1, 2))

    seed, slider = past_explorer.locator("select"), past_explorer.get_by_role("slider", name="Strato")
    for layer in each_step(slider, cka.LAYERS):
        first_two = sorted(moment for moment in seen if moment[:2] == (width, seeds[0]))[:2]
        shows(past_explorer, *first_two, layer, layer, f"{layer}, W = {width}, seme {seeds[0]}", (1, 1))
    for text in each_option(seed, map(str, seeds)):
        epochs = sorted(e for w, s, e in seen if (w, s) == (width, int(text)))
        ends = [(width, int(text), epoch) for epoch in (epochs[0], epochs[-1])]
        shows(past_explorer, *ends, layer, layer, f"{layer}, W = {width}, seme {text}", (len(epochs) - 1, 1))
    assert faults == []
    page.close()
