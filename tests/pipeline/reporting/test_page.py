"""The HTML page as a browser shows it, and what is written into it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from mobilenet_cli.reports.charts.comparison_charts import (
    accuracy_charts,
    difference_chart,
    history_charts,
)
from mobilenet_cli.reports.charts.run_charts import charts
from mobilenet_cli.reports.charts.training_charts import training_charts
from mobilenet_cli.reports.compare_html import comparison_html, history_html
from mobilenet_cli.reports.html import report_html
from mobilenet_cli.reports.markdown import report_markdown
from mobilenet_cli.reports.model_card import model_card
from mobilenet_cli.reports.records.accuracy import Interval
from mobilenet_cli.reports.records.run import (
    ComparedPair,
    ComparedRun,
    ComparisonRecord,
    HistoryRecord,
    Missing,
    ReportRecord,
    RunRecord,
)
from mobilenet_cli.reports.summary import summarize
from mobilenet_cli.reports.terminal import report_text

GOLDEN = Path(__file__).parents[2] / "golden"
ATTACK = (
    "<script>document.title='attacked'</script><img src=x onerror=\"document.title='attacked'\">"
)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


@pytest.fixture(scope="module")
def report() -> ReportRecord:
    return summarize(RunRecord.model_validate_json((GOLDEN / "run.json").read_bytes()))


def pictures_of(report: ReportRecord) -> dict[str, str]:
    return {case.key: PIXEL for case in (*report.run.disagreements, *report.run.mistakes)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield opened
        opened.close()


def eventually(page: Any, expression: str) -> None:
    """Wait for something on a page, asking from outside: its policy forbids to evaluate inside."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {expression}")


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open a page; at the end there must have been no error, and no request for anything."""
    contexts, problems = [], []

    def open_it(text: str, **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(text)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url))
        page.goto(path.as_uri())
        eventually(page, "document.querySelectorAll('.plot .main-svg').length > 0")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert [p for p in problems if not p.startswith(("file:///", "data:", "blob:"))] == []
    assert len([p for p in problems if p.startswith("file:///")]) == len(contexts)


def test_every_chart_is_a_valid_plotly_figure_with_its_numbers_as_a_table(
    report: ReportRecord,
) -> None:
    drawn = charts(report)
    assert [chart.name for chart in drawn] == [
        "accuracy",
        "latency",
        "throughput",
        "operators",
        "loss",
        "learning",
        "sqnr",
        "weights",
        "confusion",
    ]
    for chart in drawn:
        go.Figure({"data": chart.data, "layout": chart.layout})  # raises where it is not
        assert chart.rows
        assert {len(row) for row in chart.rows} == {len(chart.header)}
        assert chart.summary.endswith(".")


def test_series_differ_without_colour(report: ReportRecord) -> None:
    for chart in charts(report):
        looks = [
            (
                trace.get("line", {}).get("dash"),
                trace.get("marker", {}).get("symbol"),
                trace.get("marker", {}).get("pattern", {}).get("shape"),
            )
            for trace in chart.data
        ]
        assert len(set(looks)) == len(looks)


def test_page_is_small_and_asks_for_nothing(report: ReportRecord) -> None:
    run = report.run
    ten = [
        artifact.model_copy(update={"file": f"{i}-{artifact.file}", "sha256": f"{i}" * 64})
        for i, artifact in enumerate((*run.artifacts, *run.artifacts, *run.artifacts)[:10])
    ]
    evaluations = [
        record.model_copy(update={"sha256": artifact.sha256})
        for artifact, record in zip(ten, run.evaluations * 3, strict=False)
    ]
    assert run.bench is not None
    results = [
        result.model_copy(update={"model": artifact.file, "sha256": artifact.sha256})
        for artifact in ten
        for result in run.bench.results
    ]
    big = run.model_copy(
        update={
            "artifacts": tuple(ten),
            "evaluations": tuple(evaluations),
            "bench": run.bench.model_copy(update={"results": tuple(results)}),
        }
    )
    picture = "data:image/jpeg;base64," + "A" * 8000  # a noisy 128 pixel JPEG
    text = report_html(summarize(big), dict.fromkeys(pictures_of(report), picture))
    assert len(text.encode()) < 6_000_000
    assert text.count("0-model.safetensors") > 3
    library = r'<script type="text/plain" id="plotly">.*?</script>'
    own = text.replace(re.search(library, text, re.DOTALL)[0], "")  # type: ignore[index]  # Plotly is there
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)


def test_page_opens_without_errors_and_draws_every_chart(
    report: ReportRecord, open_page: Any
) -> None:
    page = open_page(report_html(report, pictures_of(report)))
    assert page.inner_text("h1") == report.headline
    eventually(
        page, f"document.querySelectorAll('.plot .main-svg').length >= {len(charts(report))}"
    )
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted > 0


def test_table_sorts_by_number_and_back_with_the_keyboard(
    report: ReportRecord, open_page: Any
) -> None:
    page = open_page(report_html(report, {}))
    files = "[...document.querySelectorAll('.sortable tbody th')].map((cell) => cell.textContent)"
    rising = [row.file for row in sorted(report.rows, key=lambda row: row.p50_ms or 0)]
    button = page.get_by_role("button", name="p50 ms")
    button.click()
    assert page.evaluate(files) == rising
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(files) == rising[::-1]
    head = page.locator("th", has=button)
    assert head.get_attribute("aria-sort") == "descending"


def test_hover_names_the_artifact(report: ReportRecord, open_page: Any) -> None:
    page = open_page(report_html(report, {}))
    page.locator("#accuracy .points path").last.hover(
        force=True
    )  # Plotly's own layer takes the events
    page.wait_for_selector("#accuracy .hovertext")
    assert report.rows[-1].file in page.text_content("#accuracy .hoverlayer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violation(
    report: ReportRecord, open_page: Any, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    run = report.run.model_copy(
        update={"missing": (Missing(file="x.json", why="is missing", command="make x"),)}
    )
    page = open_page(report_html(summarize(run), pictures_of(report), "x"), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = Axe().run(page).response["violations"]
    assert [
        (v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")
    ] == []


def test_colours_follow_the_scheme_and_print_is_light(report: ReportRecord, open_page: Any) -> None:
    page = open_page(report_html(report, {}), color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    tick = "document.querySelector('#accuracy .xtick text')"  # absent while it is drawn anew
    text = f"(t => t && getComputedStyle(t).fill)({tick})"
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    eventually(page, f"{text} === 'rgb(233, 237, 241)'")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    eventually(page, f"{text} === 'rgb(0, 0, 0)'")


def test_a_phone_does_not_scroll_sideways(report: ReportRecord, open_page: Any) -> None:
    page = open_page(
        report_html(report, pictures_of(report)), viewport={"width": 390, "height": 800}
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heads = page.locator("table.sortable th button")
    assert heads.all_inner_texts()[:4] == ["artifact", "size MiB", "top-1 %", "p50 ms"]
    assert (
        page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))")
        <= 60  # the tail latency may be scrolled to
    )
    box = page.locator("table.sortable tbody td:nth-child(5)").first.bounding_box()
    assert box["x"] + box["width"] <= 390


def test_the_first_screen_has_the_table_the_figure_and_what_is_next(
    report: ReportRecord, open_page: Any
) -> None:
    page = open_page(report_html(report, {}), viewport={"width": 1366, "height": 768})
    for part in (".sortable", "#accuracy", ".first code"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= 768
    assert (
        page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))")
        == 0
    )


def test_print_takes_at_most_five_pages(report: ReportRecord, open_page: Any) -> None:
    page = open_page(report_html(report, pictures_of(report)))
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 5


def test_print_scales_each_chart_into_its_place(report: ReportRecord, open_page: Any) -> None:
    page = open_page(report_html(report, {}), viewport={"width": 1366, "height": 900})
    eventually(page, "document.querySelectorAll('.plot .main-svg').length > 0")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 720, "height": 1000})
    eventually(
        page,
        "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))",
    )
    beyond = """[...document.querySelectorAll('.plot')].filter((plot) => {
        const drawn = plot.querySelector('.main-svg').getBoundingClientRect();
        const place = plot.getBoundingClientRect();
        return drawn.bottom > place.bottom + 1 || drawn.right > place.right + 1;
    }).map((plot) => plot.id)"""
    assert page.evaluate(beyond) == []


def test_a_detector_s_curves_are_its_precision() -> None:
    epoch = {"epoch": 1, "loss": 3.0, "train_top1": 26.0, "top1": 4.0, "top5": 2.0, "detects": True}
    chart = training_charts([epoch], 3)[1]
    assert chart.title == "Average precision by epoch"
    assert [trace["name"] for trace in chart.data] == ["held out, AP50", "held out, AP"]


def test_points_and_counts_hide_nothing(report: ReportRecord) -> None:
    drawn = {chart.name: chart for chart in charts(report)}
    accuracy = drawn["accuracy"]
    assert accuracy.layout["xaxis"]["type"] == "log"
    markers = [trace["marker"] for trace in accuracy.data]
    assert all(marker["symbol"].endswith("-open") for marker in markers)
    sizes = [marker["size"] for marker in markers]
    assert sizes == sorted(set(sizes), reverse=True)
    assert drawn["weights"].layout["yaxis"]["type"] == "log"
    assert drawn["confusion"].layout["yaxis"]["title"]["text"] == "true class"


def test_provenance_shows_no_dictionary(report: ReportRecord) -> None:
    recipe = {"recipe": {"name": "quick", "epochs": 2}, "qat": False, "data": "digits"}
    first = report.run.artifacts[0].model_copy(update={"config": recipe})
    run = report.run.model_copy(update={"artifacts": (first, *report.run.artifacts[1:])})
    text = report_html(summarize(run), {})
    assert "recipe quick, data digits" in text
    assert "{&#39;" not in text


def test_print_cuts_no_table_off(report: ReportRecord, open_page: Any) -> None:
    page = open_page(report_html(report, {}), viewport={"width": 320, "height": 1000})
    hidden = "(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))"
    assert page.evaluate(hidden) > 0  # on a screen one scrolls
    page.set_viewport_size({"width": 720, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate(hidden) == 0


def attacked(value: Any) -> Any:
    """Every text of a JSON document with markup that would run."""
    if isinstance(value, dict):
        return {name: attacked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [attacked(inner) for inner in value]
    return f"{value}{ATTACK}" if isinstance(value, str) else value


def attacked_report(report: ReportRecord) -> ReportRecord:
    document = attacked(json.loads(report.run.model_dump_json()))
    for before, after in zip(
        report.run.bench.results if report.run.bench else (),
        document["bench"]["results"],
        strict=True,
    ):
        after |= {"direction": before.direction, "variant": before.variant}
    for before, after in zip(report.run.artifacts, document["artifacts"], strict=True):
        after["stage"] = before.stage
    return summarize(RunRecord.model_validate(document))


def test_no_text_of_a_record_becomes_markup(report: ReportRecord, open_page: Any) -> None:
    bad = attacked_report(report)
    keys = {case.key: PIXEL for case in (*bad.run.disagreements, *bad.run.mistakes)}
    page = open_page(report_html(bad, keys, ATTACK))
    page.wait_for_timeout(500)  # for an image that fails to load
    assert "attacked" not in page.title().split("<")[0]
    assert page.evaluate("[...document.images].filter((i) => i.src.endsWith('/x')).length") == 0
    assert page.evaluate("document.querySelectorAll('main script').length") == 0
    assert "<script>" in page.inner_text("main")


def test_no_text_of_a_record_becomes_markup_in_markdown(report: ReportRecord) -> None:
    bad = attacked_report(report)
    for text in (report_markdown(bad), model_card(bad)):
        outside = re.sub(r"`[^`]*`", "", text.replace("\\`", ""))
        assert "<script" not in outside
        assert "<img" not in outside
    assert bad.rows[0].file in report_text(bad, 1000)


def test_a_bare_run_still_has_a_page(report: ReportRecord) -> None:
    bare = RunRecord(
        run="bare",
        artifacts=report.run.artifacts[:1],
        missing=(Missing(file="fp32.onnx", why="has not been made", command="make <it>"),),
    )
    text = report_html(summarize(bare), {})
    assert "fp32.onnx has not been made. Run <code>make &lt;it&gt;</code>" in text
    assert "Plotly.js" not in text  # nothing to draw
    assert text.index("Read this first") < text.index(">Artifacts<")


# --- runs against each other ------------------------------------------------------------------


def compared(report: ReportRecord, name: str, **changes: Any) -> ComparedRun:
    values = {"made": "2026-01-02T03:04:05+00:00", "machine": "One CPU", "rows": report.rows}
    return ComparedRun(run=name, **(values | changes))


@pytest.fixture(scope="module")
def comparison(report: ReportRecord) -> ComparisonRecord:
    paired = report.run.paired[0]
    same = {"stage": "quantize", "base": "one", "other": "two"}
    return ComparisonRecord(
        runs=(compared(report, "one"), compared(report, "two", machine="Another CPU")),
        pairs=(
            ComparedPair(
                **same,
                accuracy=paired,
                accuracy_note="",
                speedup=Interval(value=1.5, low=1.4, high=1.6),
                latency_note="",
            ),
            ComparedPair(
                **(same | {"stage": "export"}),
                accuracy=None,
                accuracy_note="evaluated on different images: a and b",
                speedup=None,
                latency_note="measured on different machines (cpu: x and y)",
            ),
        ),
    )


def test_a_comparison_opens_and_sorts(open_page: Any, comparison: ComparisonRecord) -> None:
    page = open_page(comparison_html(comparison))
    eventually(page, "document.querySelectorAll('.plot .main-svg').length >= 6")
    warnings = page.locator(".warnings li").all_inner_texts()
    assert warnings == [
        "two (export): evaluated on different images: a and b",
        "two (export): measured on different machines (cpu: x and y)",
    ]
    assert "different machines" in page.locator(".charts").inner_text()
    rows = page.locator("table.sortable").nth(1).locator("tbody tr")
    assert rows.count() == 2 * len(comparison.runs[0].rows)
    page.get_by_role("button", name="p50 ms").click()
    values = [text for text in rows.locator("td:nth-child(5)").all_inner_texts() if text != "–"]
    assert values == sorted(values, key=float)
    assert len(set(values)) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_is_accessible(
    open_page: Any, comparison: ComparisonRecord, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(comparison_html(comparison), color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_a_history_opens_and_names_broken_runs(open_page: Any, report: ReportRecord) -> None:
    gone = ComparedRun(run="gone", broken="its sidecar is no JSON")
    record = HistoryRecord(runs=(compared(report, "one"), gone, compared(report, "two")))
    page = open_page(history_html(record))
    assert page.locator(".warnings li").all_inner_texts() == ["gone: its sidecar is no JSON"]
    assert page.locator("h1").inner_text() == "3 runs, the last of 2026-01-02 03:04"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_names_in_a_comparison_become_no_markup(
    open_page: Any, report: ReportRecord, comparison: ComparisonRecord
) -> None:
    pair = comparison.pairs[0].model_copy(update={"other": ATTACK, "accuracy_note": ATTACK})
    runs = tuple(compared(report, ATTACK, machine=ATTACK) for _ in range(2))
    attacked = ComparisonRecord(runs=runs, pairs=(pair,))
    history = HistoryRecord(runs=(*runs, ComparedRun(run=ATTACK, broken=ATTACK)))
    for text in (comparison_html(attacked), history_html(history)):
        page = open_page(text)
        page.wait_for_timeout(500)
        assert "attacked" not in page.evaluate("document.title").replace(ATTACK, "")
        assert page.locator("img[src=x]").count() == 0


def test_charts_of_comparisons_are_valid_figures(
    report: ReportRecord, comparison: ComparisonRecord
) -> None:
    runs = [*comparison.runs, compared(report, "empty", rows=())]
    made = [
        difference_chart(comparison.pairs),
        *(chart for chart in (*accuracy_charts(runs), *history_charts(runs)) if chart is not None),
    ]
    assert len(made) == 4  # those of AP50 are for detectors
    for chart in made:
        assert chart is not None
        go.Figure({"data": chart.data, "layout": chart.layout})  # raises where it is not
        assert {len(row) for row in chart.rows} == {len(chart.header)}
    nothing = [compared(report, "empty", rows=())]
    assert [difference_chart([]), *accuracy_charts(nothing), *history_charts(nothing)] == 6 * [None]
