"""Figures and tables as files: the report's figures as SVG and PNG, the table as Markdown and LaTeX."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from pqbench_orchestrator.results.cell import CellResult
from pqbench_orchestrator.results.tables import title_of, value_of
from pqbench_wire.errors import Failed, Unavailable

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120
EXPORTED = re.compile(r'<script[^>]* id="exported"[^>]*>(.*?)</script>', re.DOTALL)
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--virtual-time-budget=60000",
)
SHOWN = (  # the tables' columns (paths in CellResult), and for floats the digits after the point
    ("model", 0), ("dataset", 0), ("recipe", 0), ("target", 0), ("batch_size", 0), ("concurrency", 0), ("repeat", 0),
    ("accuracy.top1_percent", 2), ("accuracy.change.points", 2),
    ("timing.median_ms", 3), ("timing.median_low_ms", 3), ("timing.median_high_ms", 3), ("timing.p99_ms", 3),
    ("timing.comparison.speedup", 2), ("timing.comparison.speedup_low", 2), ("timing.comparison.speedup_high", 2),
    ("engine.size_bytes", 0), ("timing.energy.mj_per_image", 3),
    ("fidelity.sqnr_db", 1), ("engine.executed_precision", 0), ("outcome", 0),
)  # fmt: skip
ONLY_WHERE_SEVERAL = ("dataset", "concurrency", "repeat")
LATEX = str.maketrans({"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\~{}",
                       "^": r"\^{}", "\\": r"\textbackslash{}"})  # fmt: skip


def write_figures(page: Path, folder: Path) -> list[Path]:
    """Have a headless browser draw the page's figures into `folder`; returns the files, two for each figure.

    Raises Unavailable where neither Chromium nor Chrome is installed, Failed where it does not draw the figures.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise Unavailable("figures are drawn by Chromium or Chrome, and none is installed: apt install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            *FLAGS,
            *_sandbox(),
            f"--user-data-dir={profile}",
            "--dump-dom",
            f"{page.resolve().as_uri()}#export",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{browser} did not draw the figures of {page} within {SECONDS} s") from error
    exported = EXPORTED.search(done.stdout)
    if exported is None:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise Failed(f"{browser} did not draw the figures of {page}: {last[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, address in json.loads(html.unescape(exported[1])).items():
        path = folder / name
        path.write_bytes(_decoded(address))
        files.append(path)
    return files


def markdown(table: Sequence[CellResult]) -> str:
    """The table of results in Markdown."""
    shown, lines = _cells(table)
    names = [title_of(path) for path, _ in shown]
    head = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def latex(table: Sequence[CellResult]) -> str:
    """The table of results in LaTeX, for the package booktabs."""
    shown, lines = _cells(table)
    names = [title_of(path) for path, _ in shown]
    body = [" & ".join(text.translate(LATEX) for text in line) + r" \\" for line in (names, *lines)]
    aligned = "".join("l" if digits == 0 else "r" for _, digits in shown)
    return "\n".join([f"\\begin{{tabular}}{{{aligned}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule",
                      r"\end{tabular}", ""])  # fmt: skip


def _cells(table: Sequence[CellResult]) -> tuple[list[tuple[str, int]], list[list[str]]]:
    """The columns to show, and for each cell its texts under them.

    A column is shown where any value is known, one of ONLY_WHERE_SEVERAL only where its values differ.
    """
    values = {path: {value_of(cell, path) for cell in table} for path, _ in SHOWN}
    shown = [(path, digits) for path, digits in SHOWN
             if values[path] - {None} and (path not in ONLY_WHERE_SEVERAL or len(values[path]) > 1)]  # fmt: skip
    return shown, [[_cell(cell, path, digits) for path, digits in shown] for cell in table]


def _cell(cell: CellResult, path: str, digits: int) -> str:
    stopped = cell.accuracy is not None and bool(cell.accuracy.stopped_early)
    marks = {"outcome": " (unstable)" if cell.is_unstable else "",
             "accuracy.top1_percent": " (stopped early)" if stopped else ""}  # fmt: skip
    return _text(value_of(cell, path), digits) + marks.get(path, "")


def _text(value: object, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _decoded(address: str) -> bytes:
    """The content of a data: URL."""
    kind, _, content = address.partition(",")
    return base64.b64decode(content) if kind.endswith(";base64") else unquote(content).encode()


def _sandbox() -> list[str]:
    """The flag that switches Chromium's sandbox off for root, for whom it does not work.

    This is safe, because the page is pqbench's own and loads nothing from the network.
    """
    return ["--no-sandbox"] if os.geteuid() == 0 else []
