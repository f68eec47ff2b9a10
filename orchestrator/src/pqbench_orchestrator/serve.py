"""`pqbench serve`: a web page of this machine over all runs, with the live progress of one that goes on.

It only reads. A run neither knows of it nor waits for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from jinja2 import Environment, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pqbench_orchestrator import compare
from pqbench_orchestrator.ledger import FILE, Ledger
from pqbench_orchestrator.run import is_running
from pqbench_orchestrator.tables import count_outcomes, count_unstable
from pqbench_wire.errors import InvalidInput, PqbenchError

POLL_SECONDS = 1.0  # a ledger is looked at so often while somebody watches
LAST_STEPS = 12
FILES = ("report.html", "results.csv", "results.parquet", "samples.parquet", "manifest.yaml", "environment.json")
LOCAL = ["localhost", "127.0.0.1", "testserver"]


def application(experiments: Path) -> FastAPI:
    """The pages over the runs in a folder."""
    app = FastAPI(title="pqbench", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)  # no other site's page can ask in its name

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return _page("runs.html", runs=runs(experiments))

    @app.get("/api/runs")
    def api_runs() -> list[dict[str, Any]]:
        return runs(experiments)

    @app.get("/runs/{run}", response_class=HTMLResponse)
    def run_page(run: str) -> str:
        folder = _folder(experiments, run)
        return _page("run.html", run=run, state=progress(folder), files=[f for f in FILES if (folder / f).is_file()])

    @app.get("/runs/{run}/events")
    async def events(run: str, request: Request) -> StreamingResponse:
        return StreamingResponse(_events(_folder(experiments, run), request), media_type="text/event-stream")

    @app.get("/runs/{run}/{name}")
    def file(run: str, name: str) -> FileResponse:
        path = _folder(experiments, run) / name
        if name not in FILES or not path.is_file():
            raise HTTPException(404, f"run {run} has no {name}")
        return FileResponse(path)

    @app.get("/compare", response_class=HTMLResponse)
    def comparison(old: str, new: str, anyway: bool = False) -> str:
        try:
            found = compare.compare(_side(experiments, old), _side(experiments, new), anyway)
        except PqbenchError as error:
            raise HTTPException(400, str(error)) from error
        changes = [(one.verdict, compare.cells(one)) for one in found]
        return _page("compare.html", old=old, new=new, anyway=anyway, columns=compare.COLUMNS, changes=changes)

    return app


def _folder(experiments: Path, run: str) -> Path:
    """A run's folder. Nothing else below the experiments, and nothing beside them, can be named."""
    folder = experiments / run
    if folder.parent != experiments or not (folder / FILE).is_file():
        raise HTTPException(404, f"there is no run {run}")
    return folder


def _side(experiments: Path, text: str) -> compare.Side:
    run, colon, target = text.partition(":")
    return compare.side(f"{_folder(experiments, run)}{colon}{target}")


def serve(experiments: Path, port: int) -> None:
    """Serve on loopback until interrupted."""
    uvicorn.run(application(experiments), host="127.0.0.1", port=port, log_level="warning")


def runs(experiments: Path) -> list[dict[str, Any]]:
    """All runs, the newest first."""
    folders = [path.parent for path in experiments.glob(f"*/{FILE}")]
    return [_summary(folder) for folder in sorted(folders, key=lambda one: one.stat().st_mtime, reverse=True)]


def _summary(folder: Path) -> dict[str, Any]:
    try:
        with Ledger(folder / FILE, read_only=True) as ledger:
            cells, facts, problem = ledger.cells(), ledger.description(), ""
    except InvalidInput as error:  # one damaged run hides no other
        cells, facts, problem = [], {}, str(error)
    if not all({"Outcome", "Target"} <= row.keys() for row in cells):
        cells, problem = [], f"{folder / FILE} is damaged: a cell lacks its columns"
    return {
        "run": folder.name,
        "problem": problem,
        "manifest": facts.get("manifest", ""),
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(_begin(folder))),
        "running": is_running(folder),
        "cells": len(cells),
        "outcomes": dict(count_outcomes(cells)),
        "unstable": count_unstable(cells),
        "targets": sorted({row["Target"] for row in cells}),
        "report": (folder / "report.html").is_file(),
    }


def progress(folder: Path) -> dict[str, Any]:
    """How far a run is: steps, what it does now, what ended last, what went wrong."""
    try:
        with Ledger(folder / FILE, read_only=True) as ledger:
            steps, facts = ledger.steps(), ledger.description()
    except InvalidInput as error:
        raise HTTPException(500, str(error)) from error
    ended = [step for step in steps if step["outcome"] != "started"]
    now = [step for step in steps if step["outcome"] == "started"]
    return {
        "running": is_running(folder),
        "done": len(ended),
        "total": max(int(facts.get("steps", "0")), len(ended)),
        "now": [f"{step['place']}: {step['kind']} {step['label']}" for step in now[-1:]],
        "last": ended[-LAST_STEPS:][::-1],
        "failed": [step for step in ended if step["outcome"] == "failed"][:LAST_STEPS],
    }


async def _events(folder: Path, request: Request) -> AsyncIterator[str]:
    """The progress, whenever it changes, until the run has ended or nobody listens."""
    told = ""
    while not await request.is_disconnected():
        state = await asyncio.to_thread(progress, folder)
        text = json.dumps(state)
        if text != told:
            told = text
            yield f"data: {text}\n\n"
        if not state["running"]:
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(POLL_SECONDS)


def _begin(folder: Path) -> float:
    manifest = folder / "manifest.yaml"
    return (manifest if manifest.is_file() else folder).stat().st_mtime


def _page(name: str, **values: Any) -> str:
    style = (resources.files("pqbench_orchestrator.report") / "page.css").read_text(encoding="utf-8")
    template = (resources.files("pqbench_orchestrator.web") / name).read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(style=style, **values)
