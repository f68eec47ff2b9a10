"""Figures and tables as files: what the page draws as SVG and PNG, the table as Markdown and LaTeX."""

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

from pqbench_orchestrator.tables import Row
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
SHOWN = (  # columns of the tables, and digits
    ("Model", 0), ("Dataset", 0), ("Recipe", 0), ("Target", 0), ("Batch Size", 0), ("Concurrency", 0), ("Repeat", 0),
    ("Accuracy", 2), ("Accuracy Change", 2),
    ("Inference Time (ms)", 3), ("Median Low (ms)", 3), ("Median High (ms)", 3), ("P99 (ms)", 3), ("Speedup", 2),
    ("Speedup Low", 2), ("Speedup High", 2), ("Engine (bytes)", 0), ("Energy (mJ/image)", 3),
    ("Fidelity (dB)", 1), ("Executed Precision", 0), ("Outcome", 0),
)  # fmt: skip
ONLY_WHERE_SEVERAL = ("Dataset", "Concurrency", "Repeat")
LATEX = str.maketrans({"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\~{}",
                       "^": r"\^{}", "\\": r"\textbackslash{}"})  # fmt: skip


def write_figures(page: Path, folder: Path) -> list[Path]:
    """Have a browser without a window draw the page's figures; returns the files, two for each figure.

    Raises Unavailable where there is no Chromium or Chrome, Failed where it does not draw them.
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


def markdown(table: Sequence[Row]) -> str:
    """The table in Markdown."""
    names, lines = _cells(table)
    head = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}\n"
    return head + "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def latex(table: Sequence[Row]) -> str:
    """The table in LaTeX, for the package booktabs."""
    names, lines = _cells(table)
    body = [" & ".join(text.translate(LATEX) for text in line) + r" \\" for line in (names, *lines)]
    aligned = "".join("l" if digits == 0 else "r" for name, digits in SHOWN if name in names)
    return "\n".join([f"\\begin{{tabular}}{{{aligned}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule",
                      r"\end{tabular}", ""])  # fmt: skip


def _cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns in which something is known, and the rows' texts."""
    values = {name: {row.get(name) for row in table} for name, _ in SHOWN}
    shown = [(name, digits) for name, digits in SHOWN
             if values[name] - {None} and (name not in ONLY_WHERE_SEVERAL or len(values[name]) > 1)]  # fmt: skip
    return [name for name, _ in shown], [[_cell(row, name, digits) for name, digits in shown] for row in table]


def _cell(row: Row, name: str, digits: int) -> str:
    marks = {"Outcome": row.get("Stable") is False, "Accuracy": bool(row.get("Stopped Early"))}
    words = {"Outcome": " (unstable)", "Accuracy": " (stopped early)"}
    return _text(row.get(name), digits) + (words[name] if marks.get(name) else "")


def _text(value: object, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _decoded(address: str) -> bytes:
    """The content of a data: address."""
    kind, _, content = address.partition(",")
    return base64.b64decode(content) if kind.endswith(";base64") else unquote(content).encode()


def _sandbox() -> list[str]:
    """Chromium's sandbox does not work for root; the page is our own and has no network."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []
