"""How fast a report of 5,000 cells opens and answers in Chromium: python benchmarks/report.py [--cells 5000]

The page is made of invented cells. "Open" is from the navigation to the drawn first figure and the filled table.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from pqbench_orchestrator.output.report.details import BINS, STRETCHES, significant
from pqbench_orchestrator.output.report.page import Report, write_report
from pqbench_orchestrator.results.tables import THESIS_COLUMNS, from_row

RESULT = Path(__file__).parent / "results/report.json"
LIMIT_SECONDS, LIMIT_MB = 3.0, 10.0
OPENINGS = 5


def invented(count: int) -> Report:
    """A run of `count` cells over 10 models, 2 datasets, 3 targets, 4 batch sizes and as many recipes as it takes."""
    rng = np.random.default_rng(0)
    axes = (
        [f"model-{i}" for i in range(10)],
        ["imagenette", "imagewoof"],
        ["trt-10", "trt-11", "ort"],
        [1, 8, 32, 128],
    )
    combinations = list(product(*axes))
    table, details, boxes = [], {}, {}
    for number in range(count):
        recipe, place = divmod(number, len(combinations))
        cell, batch = f"{number:012x}", combinations[place][3]
        times = rng.lognormal(np.log(batch), 0.05, 200)
        table.append(from_row(row(cell, combinations[place], recipe, times)))
        boxes[cell] = [float(q) for q in np.quantile(times, [0.05, 0.25, 0.5, 0.75, 0.95])]
        details[cell] = detail(times)
    host = {"os": "invented", "python": "3", "cores": 1, "memory_bytes": 2**30}
    record = {"targets": {}, "compressors": {}, "started": "never", "host": host}
    return Report(run=f"invented-{count}", table=table, record=record, manifest="", details=details, boxes=boxes)


def row(cell: str, place: tuple[str, str, str, int], recipe: int, times: np.ndarray) -> dict[str, Any]:
    """One cell's figures."""
    model, dataset, target, batch = place
    amount, middle = recipe % 10 / 10, float(np.median(times))
    return {
        **dict.fromkeys(THESIS_COLUMNS), "Model": model, "Dataset": dataset, "Target": target, "Batch Size": batch,
        "Concurrency": 1, "Repeat": 0, "Recipe": f"l1-global {amount:g} v{recipe}", "Pruner": "l1-global",
        "Quantizer": "-", "Amount": amount, "Outcome": "ok", "Reason": "", "Accuracy": 95 - 20 * amount**2,
        "Accuracy Low": 94.0 - 20 * amount**2, "Accuracy High": 96.0 - 20 * amount**2, "Inference Time (ms)": middle,
        "Median Low (ms)": middle * 0.99, "Median High (ms)": middle * 1.01, "P99 (ms)": float(times.max()),
        "Speedup": 1.5, "Speedup Low": 1.4, "Speedup High": 1.6, "Images/s": 1000.0, "Stable": True,
        "Original Size": 40.0, "Compressed Size": 20.0, "Engine (bytes)": 20_000_000, "MACs": 10**9,
        "Executed Precision": "FP16 50", "Cell": cell,
    }  # fmt: skip


def detail(times: np.ndarray) -> dict[str, Any]:
    """Bins as those of 200 calls, and 60 layers."""
    counts, edges = np.histogram(times, BINS)
    series = [[significant(one) for one in (i * 0.01, part.min(), np.median(part), part.max())]
              for i, part in enumerate(np.array_split(times, STRETCHES))]  # fmt: skip
    samples = {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(), "beyond": 0,
               "slowest": float(times.max()), "series": series}  # fmt: skip
    layers = [[f"layer{i}", "Convolution", "FP16", "sm90_xmma", 0.01] for i in range(60)]
    empty = {name: {} for name in ("settings", "measured", "versions", "environment", "server")}
    return {"samples": {"variant": samples}, "tool": "a profiler", "layers": layers, "load": [], "gpu": [], **empty}


def seconds(page: Page, action: Any, wait_for: str) -> float:
    """From an action to what it shows."""
    begin = time.perf_counter()
    action()
    page.wait_for_function(wait_for)
    return time.perf_counter() - begin


def main() -> int:
    """Make the page, open it some times, use it, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=5000)
    cells = parser.parse_args().cells
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        print("benchmarks/report.py needs Chromium: apt install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "report.html")
        begin = time.perf_counter()
        write_report(path, invented(cells))
        written = time.perf_counter() - begin
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        ready = "document.querySelector('#table tbody tr') && document.querySelector('#tradeoff .main-svg')"
        opened = []
        for _ in range(OPENINGS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(60_000)
            opened.append(seconds(page, partial(page.goto, path.as_uri()), ready))
            if len(opened) < OPENINGS:
                page.close()
        chosen = "document.querySelector('#table tbody td:nth-child(2)').innerText === 'model-7'"
        filtered = seconds(page, lambda: page.locator("select[name=Model]").select_option("model-7"), chosen)
        sort = page.get_by_role("button", name="Inference Time (ms)")
        sorted_in = seconds(page, sort.click, "document.querySelector('#table th[aria-sort]')")
        link = page.locator("#table tbody a").first
        cell = seconds(page, link.click, "document.querySelector('#cell-histogram .main-svg')")
        figures = {
            "cells": cells, "page_mb": path.stat().st_size / 1e6, "write_s": written,
            "open_s_median": median(opened), "open_s_max": max(opened), "filter_s": filtered, "sort_s": sorted_in,
            "cell_s": cell, "browser": browser.version,
            "machine": platform.platform(), "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        browser.close()
    print(
        "\n".join(
            f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}"
            for name, value in figures.items()
        )
    )
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"opens in {figures['open_s_median'] / LIMIT_SECONDS:.2f} of the {LIMIT_SECONDS:g} s that are allowed")
    print(f"has {figures['page_mb'] / LIMIT_MB:.2f} of the {LIMIT_MB:g} MB that are allowed")
    return 0 if figures["open_s_max"] < LIMIT_SECONDS and figures["page_mb"] < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
