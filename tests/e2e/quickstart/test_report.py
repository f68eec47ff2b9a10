"""The report in a real browser: every figure, filters, sorting, cells, links; light and dark, narrow and wide."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pqbench_orchestrator.output.report.page import write_report

from ..conftest import ROOT, Pqbench, Watched, rows_of

Open = Callable[..., Watched]
FIGURES = ("tradeoff", "amount", "latency", "batch", "removal-latency", "removal-size", "size", "combined")


def look_at_all(page: Any) -> None:
    """Figures are drawn when they come into view."""
    for name in FIGURES:
        page.locator(f"#figure-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{name} svg.main-svg")


def column(page: Any, name: str) -> list[str]:
    head = page.locator("#table thead th").all_inner_texts()
    return page.locator(f"#table tbody tr td:nth-child({head.index(name) + 1})").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everything_works_from_file_without_network(quickstart: Path, open_page: Open, scheme: str, width: int) -> None:
    watched = open_page(
        (quickstart / "report.html").as_uri(), viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page = watched.page
    look_at_all(page)
    assert all(page.locator(f"#figure-{name}").is_hidden() for name in ("energy", "throughput")), "nothing to show"
    assert page.locator("#table tbody tr").count() == 36
    refused = page.locator("#table details", has_text="pytorch has no route for INT8")
    assert refused.count() == 4 and not refused.first.get_by_text("pytorch has no route").is_visible(), "on demand"
    refused.first.locator("summary").click()
    assert refused.first.get_by_text("pytorch has no route").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "only tables scroll sideways"
    sort = page.get_by_role("button", name="Inference Time (ms)")
    sort.click()
    times = [float(t.split()[0]) for t in column(page, "Inference Time (ms)") if t]
    assert len(times) == 32 and times == sorted(times)
    sort.focus()
    page.keyboard.press("Enter")
    times = [float(t.split()[0]) for t in column(page, "Inference Time (ms)") if t]
    assert times == sorted(times, reverse=True)
    watched.close()


def test_filters_reach_figures_and_table(quickstart: Path, open_page: Open) -> None:
    watched = open_page((quickstart / "report.html").as_uri())
    page = watched.page
    look_at_all(page)
    assert page.locator("#latency .bars .point").count() == 16
    page.get_by_label("All cells in the table").uncheck()
    assert set(column(page, "Batch Size")) == {"1"} and len(column(page, "Recipe")) == 18
    page.locator("select[name='Batch Size']").select_option("32")
    page.locator("select[name=Target]").select_option("openvino-cpu")
    assert page.locator("#latency .bars .point").count() == 6
    assert set(column(page, "Target")) == {"openvino-cpu"} and set(column(page, "Batch Size")) == {"32"}
    page.get_by_label("Recipe has").fill("int8")
    assert column(page, "Recipe") == ["int8", "removal + int8"]
    assert page.locator("#shown").inner_text().startswith("1 to 2 of 2 cells")
    front = "document.getElementById('tradeoff').data.find(t => t.name === 'Pareto front').x.length"
    assert page.evaluate(front) >= 1
    page.locator("#cost").select_option("Engine (bytes)")
    assert "bytes" in page.evaluate("document.getElementById('tradeoff').layout.xaxis.title.text")
    page.get_by_label("Recipe has").fill("no such recipe")
    assert page.locator("#figure-latency").is_hidden() and column(page, "Recipe") == []
    assert page.locator("#shown").inner_text().startswith("No cell matches the filters")
    watched.close()


def test_a_view_is_kept_in_the_address(quickstart: Path, open_page: Open) -> None:
    watched = open_page((quickstart / "report.html").as_uri())
    page = watched.page
    page.get_by_label("All cells in the table").uncheck()
    page.locator("select[name=Target]").select_option("openvino-cpu")
    page.get_by_label("Recipe has").fill("removal + int8")
    page.get_by_text("Choose columns").click()
    page.get_by_label("Accuracy", exact=True).check()
    page.get_by_role("button", name="Speedup").click()
    page.get_by_role("button", name="Speedup").click()
    other = open_page(page.url)
    assert column(other.page, "Recipe") == ["removal + int8"] and column(other.page, "Target") == ["openvino-cpu"]
    assert "Accuracy" in other.page.locator("#table thead th").all_inner_texts()
    assert other.page.locator("#table th[aria-sort=descending]").inner_text() == "Speedup"
    other.page.locator("#table tbody a").first.click()
    other.page.wait_for_selector("#cell:not([hidden])")
    other.page.get_by_role("link", name="All cells").click()
    other.page.wait_for_selector("#overview:not([hidden])")
    assert other.page.url == page.url and column(other.page, "Recipe") == ["removal + int8"]
    other.page.goto((quickstart / "report.html").as_uri() + "#Target=no-such-target&columns=None")
    other.page.reload()
    assert other.page.locator("#table tbody tr").count() == 36
    assert "Accuracy Change" in other.page.locator("#table thead th").all_inner_texts(), "unknown names are ignored"
    other.close()
    watched.close()


def test_a_cell_has_a_page(quickstart: Path, open_page: Open) -> None:
    row = next(r for r in rows_of(quickstart) if r["Recipe"] == "removal + int8" and r["Target"] == "openvino-cpu")
    watched = open_page((quickstart / "report.html").as_uri())
    page = watched.page
    page.locator(f"#table a[href='#cell={row['Cell']}']").focus()
    page.keyboard.press("Enter")
    for name in ("histogram", "series"):
        page.wait_for_selector(f"#cell-{name} svg.main-svg")
    state = page.locator("#cell-state").inner_text()
    assert state.startswith("ok") and row["Cell"] in state and ("unstable" in state) == (row["Stable"] == "False")
    assert f"pqbench export {quickstart} {row['Cell']} --out bundle" in page.locator("#cell-commands").inner_text()
    assert "as fast as the baseline" in page.locator("#cell .answer").inner_text()
    assert page.locator("#cell-layers tbody tr").count() >= 10 and "INT8" in page.locator("#cell-layers").inner_text()
    assert "openvino" in page.locator("#cell-environment").inner_text() and not page.locator("#overview").is_visible()
    with duckdb.connect() as connection:
        calls = connection.read_parquet(str(quickstart / "samples.parquet"))
        own = calls.filter(f"cell = '{row['Cell']}' AND role = 'variant' AND build = 0")
        slowest = own.aggregate("max(latency) * 1000").fetchall()[0][0]
    shown = page.evaluate("Math.max(...document.getElementById('cell-series').data[1].y)")
    assert shown == pytest.approx(slowest, rel=5e-4), "the slowest of all calls, in four digits"
    head = page.locator("#cell-layers th").all_inner_texts()
    assert head[-2:] == ["Baseline (ms)", "Baseline in"]
    assert "FP32" in page.locator("#cell-layers tbody tr td:last-child").all_inner_texts()
    page.get_by_role("link", name="All cells").click()
    page.wait_for_selector("#overview:not([hidden])")
    assert not page.locator("#cell").is_visible()
    page.goto((quickstart / "report.html").as_uri() + "#cell=000000000000")
    page.reload()
    assert page.locator("#cell h2").inner_text() == "There is no cell 000000000000"
    watched.close()


def test_the_recommendation_is_on_top_and_was_measured_again(
    quickstart: Path, pqbench: Pqbench, open_page: Open
) -> None:
    found = json.loads(pqbench("recommend", quickstart, "--json").out)
    watched = open_page((quickstart / "report.html").as_uri())
    cards = watched.page.locator(".card")
    assert cards.count() == len(found) == 2
    for index, one in enumerate(found):
        best, card = one["best"], cards.nth(index)
        shown = card.inner_text()
        assert f"Ship {best['recipe']} on {best['target']}" in shown and f"pqbench export {quickstart} " in shown
        assert f"{one['confirmed']['speedup']:.2f}×" in shown and f"{best['engine_size_bytes'] / 1e6:.2f} MB" in shown
        assert ("unstable" in shown) == (one["stable"] is False)
        card.locator("summary").click()
        assert (
            "Measured again after the choice" in card.inner_text() and "held-out training images" in card.inner_text()
        )
        assert card.locator(".chips a").count() == len(one["runners_up"])
        other = open_page((quickstart / "report.html").as_uri() + f"#cell={best['cell']}")
        other.page.wait_for_selector("#cell:not([hidden])")
        assert other.page.locator("#cell .answer").inner_text().startswith("Measured again after it was chosen: ")
        other.close()
    marked = "document.getElementById('tradeoff').data.find(t => t.name === 'Recommended').customdata"
    watched.page.wait_for_selector("#tradeoff svg.main-svg")
    assert watched.page.evaluate(marked) == [found[0]["best"]["cell"]], "of the batch size that the filter shows"
    watched.close()


def test_the_table_begins_with_what_matters(quickstart: Path, open_page: Open) -> None:
    watched = open_page((quickstart / "report.html").as_uri())
    page = watched.page
    heads = page.locator("#table thead th").all_inner_texts()
    assert heads == ["Cell", "Recipe", "Target", "Batch Size", "Inference Time (ms)", "Speedup", "Accuracy Change",
                     "Engine (bytes)", "Executed Precision", "Outcome"]  # fmt: skip
    assert "all: model resnet, dataset digits" in page.locator("#shown").inner_text()
    assert {len(key) for key in column(page, "Cell")} == {8}
    assert any(" to " in text for text in column(page, "Speedup")), "intervals are inline"
    page.get_by_text("Choose columns").click()
    for name in ("P99 (ms)", "MACs"):
        page.get_by_label(name, exact=True).check()
    page.get_by_label("Engine (bytes)", exact=True).uncheck()
    assert page.locator("#table thead th").all_inner_texts() == [*heads[:7], *heads[8:], "P99 (ms)", "MACs"]
    watched.close()


def test_figures_and_tables_as_files(quickstart: Path, pqbench: Pqbench, tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        pytest.skip("skipped: no Chromium (apt install chromium)")
    done = pqbench("report", quickstart, "--figures", tmp_path / "figures")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {
        f"resnet-digits-{batch}-{figure}.{kind}" for batch in (1, 32) for figure in FIGURES for kind in ("svg", "png")
    } <= names
    assert (tmp_path / "figures/resnet-digits-1-size.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figures/resnet-digits-1-size.svg").read_text().startswith("<svg")
    markdown = (tmp_path / "figures/results.md").read_text().splitlines()
    assert len(markdown) == 2 + 36 and markdown[0].startswith("| Model | Recipe |")
    latex = (tmp_path / "figures/results.tex").read_text()
    assert latex.startswith(r"\begin{tabular}") and latex.count(r"\\") == 37 and "removal + int8" in latex


@pytest.mark.long
def test_five_thousand_cells_open_and_stay_usable(open_page: Open, tmp_path: Path) -> None:
    """How fast is a matter of benchmarks/report.py."""
    spec = importlib.util.spec_from_file_location("report_benchmark", ROOT / "benchmarks/report.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    write_report(tmp_path / "report.html", benchmark.invented(5000))
    watched = open_page((tmp_path / "report.html").as_uri())
    page = watched.page
    page.wait_for_selector("#tradeoff svg.main-svg")
    assert page.locator("#table tbody tr").count() == 63 and "of 5000" in page.locator("#shown").inner_text()
    page.get_by_label("All cells in the table").check()
    assert page.locator("#table tbody tr").count() == 100
    page.get_by_role("button", name="Next").click()
    assert page.locator("#shown").inner_text().startswith("101 to 200 of 5000")
    page.locator("#table tbody a").first.click()
    page.wait_for_selector("#cell-histogram svg.main-svg")
    watched.close()
