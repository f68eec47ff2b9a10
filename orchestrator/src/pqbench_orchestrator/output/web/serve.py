"""`pqbench serve`: a local web server that shows all runs, with live progress of those that are being executed.

It only reads the runs' files and ledgers, and runs do not depend on it.
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
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pqbench_orchestrator.decide import compare, sides
from pqbench_orchestrator.output import comparison
from pqbench_orchestrator.output.report.page import PLOTLY
from pqbench_orchestrator.output.web.history import history
from pqbench_orchestrator.output.web.metrics import metrics_of
from pqbench_orchestrator.results.tables import count_outcomes, count_unstable, recorded
from pqbench_orchestrator.store.ledger import Ledger, StepRecord
from pqbench_orchestrator.store.remote_run import RemoteRun, may_be_running, remote_run, remote_runs
from pqbench_orchestrator.store.run_folder import CSV, ENVIRONMENT, MANIFEST, PARQUET, REPORT, RunFolder, runs_below
from pqbench_orchestrator.store.samples import FILE as SAMPLES
from pqbench_wire.errors import InvalidInput, PqbenchError

POLL_SECONDS = 1.0  # between two looks at a ledger while a browser shows its progress
LAST_STEPS = 12  # that a run's page lists
FILES = (REPORT, CSV, PARQUET, SAMPLES, MANIFEST, ENVIRONMENT)
LOCAL = ["localhost", "127.0.0.1", "testserver"]

AnyRun = RunFolder | RemoteRun


def application(experiments: Path, ledger: str = "") -> FastAPI:
    """The web application over the runs in a folder, and those with their ledgers in the database at `ledger`."""
    app = FastAPI(title="pqbench", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)  # against DNS rebinding by other sites
    _add_overviews(app, experiments, ledger)
    _add_runs(app, experiments, ledger)
    return app


def _add_overviews(app: FastAPI, experiments: Path, ledger: str) -> None:
    """What is over several runs: the list, histories, comparisons, and what Prometheus asks for."""

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return _page("runs.html", runs=runs(experiments, ledger), ledger=ledger)

    @app.get("/api/runs")
    def api_runs() -> list[dict[str, Any]]:
        return runs(experiments, ledger)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(metrics_of(runs(experiments, ledger)), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/history/{manifest}")
    def api_history(manifest: str) -> dict[str, Any]:
        return _history(experiments, manifest)

    @app.get("/history/{manifest}", response_class=HTMLResponse)
    def history_page(manifest: str) -> str:
        own = {"plotly": _part(PLOTLY), "palette": _part("palette.js")}
        return _page("history.html", history=_history(experiments, manifest), **own)

    @app.get("/compare", response_class=HTMLResponse)
    def compare_page(old: str, new: str, anyway: bool = False) -> str:
        try:
            found = compare.compare(_side(experiments, old), _side(experiments, new), anyway)
        except PqbenchError as error:
            raise HTTPException(400, str(error)) from error
        said = comparison.common_notes(found)
        changes = [(one.verdict, comparison.texts(one, said)) for one in found]
        return _page(
            "compare.html",
            old=old,
            new=new,
            anyway=anyway,
            columns=comparison.COLUMNS,
            verdict_at=comparison.COLUMNS.index("Verdict"),
            caption=comparison.caption(found),
            changes=changes,
        )


def _add_runs(app: FastAPI, experiments: Path, ledger: str) -> None:
    """What is of one run: its page, its progress and its files."""

    @app.get("/runs/{run}", response_class=HTMLResponse)
    def run_page(run: str) -> str:
        found = _any_run(experiments, ledger, run)
        files = [f for f in FILES if (found / f).is_file()] if isinstance(found, RunFolder) else []
        return _page("run.html", run=run, state=progress(found), files=files)

    @app.get("/runs/{run}/events")
    async def events(run: str, request: Request) -> StreamingResponse:
        found = await asyncio.to_thread(_any_run, experiments, ledger, run)
        return StreamingResponse(_events(found, request), media_type="text/event-stream")

    @app.get("/runs/{run}/{name}")
    def file(run: str, name: str) -> FileResponse:
        path = _run(experiments, run) / name
        if name not in FILES or not path.is_file():
            raise HTTPException(404, f"run {run} has no {name}")
        return FileResponse(path)


def _run(experiments: Path, name: str) -> RunFolder:
    """The folder of the run `name`; any name that is not that of a run in `experiments` is answered with 404."""
    folder = RunFolder(experiments / name)
    if folder.path.parent != experiments or not folder.has_ledger:
        raise HTTPException(404, f"there is no run {name}")
    return folder


def _any_run(experiments: Path, ledger: str, name: str) -> AnyRun:
    """The same, also of a run whose ledger alone can be read here; 500 where the database cannot be asked."""
    if not ledger or RunFolder(experiments / name).has_ledger:
        return _run(experiments, name)
    try:
        return remote_run(ledger, name) or _run(experiments, name)
    except InvalidInput as error:
        raise HTTPException(500, str(error)) from error


def _history(experiments: Path, manifest: str) -> dict[str, Any]:
    """The history of a manifest, the oldest run first; a name that no run has is answered with 404."""
    found = history(runs_below(experiments), manifest)
    if not found["runs"]:
        raise HTTPException(404, f"no run is of a manifest with the name {manifest}")
    return found


def _side(experiments: Path, text: str) -> sides.Side:
    run, _, target = text.partition(":")
    return sides.side_of(_run(experiments, run), target)


def serve(experiments: Path, port: int, ledger: str = "") -> None:
    """Serve on loopback until interrupted."""
    uvicorn.run(application(experiments, ledger), host="127.0.0.1", port=port, log_level="warning")


def runs(experiments: Path, ledger: str = "") -> list[dict[str, Any]]:
    """A summary of each run in a folder and in a database, the newest first; of a database that is away, why."""
    here = runs_below(experiments)
    there: list[RemoteRun] = []
    problems = []
    try:
        there = remote_runs(ledger, {run.name for run in here}) if ledger else []
    except InvalidInput as error:
        problems = [_row(ledger, time.time(), is_here=False) | {"problem": str(error)}]
    every: list[AnyRun] = sorted((*here, *there), key=lambda run: (run.started, run.name), reverse=True)
    return [*problems, *map(_summary, every)]


def _summary(run: AnyRun) -> dict[str, Any]:
    row = _row(run.name, run.started, isinstance(run, RunFolder))
    row["running"] = isinstance(run, RunFolder) and run.is_running
    try:
        with run.ledger() as ledger:
            cells, planned = recorded(ledger), ledger.planned_steps
            ended = sum(step.outcome != "started" for step in ledger.steps())
            row |= {"manifest": ledger.manifest_name, "running": _is_running(run, ledger, ended)}
    except InvalidInput as error:  # a damaged run must not hide the others
        return row | {"problem": str(error)}
    return row | {
        "steps_planned": max(planned, ended),
        "steps_ended": ended,
        "cells": len(cells),
        "outcomes": dict(count_outcomes(cells)),
        "unstable": count_unstable(cells),
        "targets": sorted({cell.target for cell in cells}),
        "report": isinstance(run, RunFolder) and (run / REPORT).is_file(),
    }


def _row(name: str, started: float, is_here: bool) -> dict[str, Any]:
    """What is known of a run whose ledger was not read."""
    return {
        "run": name, "is_here": is_here, "problem": "", "manifest": "", "started_s": started,
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(started)), "running": False,
        "steps_planned": 0, "steps_ended": 0, "cells": 0, "outcomes": {}, "unstable": 0, "targets": [], "report": False,
    }  # fmt: skip


def _is_running(run: AnyRun, ledger: Ledger, ended: int) -> bool:
    return run.is_running if isinstance(run, RunFolder) else may_be_running(ledger, ended)


def progress(run: AnyRun) -> dict[str, Any]:
    """How far a run is: numbers of steps, the step in progress, those that ended last, and those that failed.

    Answers 500 where the ledger cannot be read.
    """
    try:
        with run.ledger() as ledger:
            steps, planned = ledger.steps(), ledger.planned_steps
            ended = [step for step in steps if step.outcome != "started"]
            is_running = _is_running(run, ledger, len(ended))
    except InvalidInput as error:
        raise HTTPException(500, str(error)) from error
    now = [step for step in steps if step.outcome == "started"]
    failed = [step for step in ended if step.outcome == "failed"]
    executed = [step.seconds for step in ended if step.outcome != "cached"]
    left = max(0, planned - len(ended))
    return {
        "running": is_running,
        "done": len(ended),
        "total": max(planned, len(ended)),
        "seconds_left": left * sum(executed) / len(executed) if executed else None,  # by the mean of what was executed
        "now": [f"{step.place}: {step.kind} {step.label}" for step in now[-1:]],
        "last": [_step(step) for step in ended[-LAST_STEPS:][::-1]],
        "failed": [_step(step) for step in failed[:LAST_STEPS]],
    }


def _step(step: StepRecord) -> dict[str, Any]:
    names = ("key", "kind", "label", "place", "outcome", "reason", "seconds")
    return {name: getattr(step, name) for name in names}


async def _events(run: AnyRun, request: Request) -> AsyncIterator[str]:
    """The run's progress as server-sent events whenever it changes, until the run has ended or the browser is gone."""
    last = ""
    while not await request.is_disconnected():
        state = await asyncio.to_thread(progress, run)
        text = json.dumps(state)
        if text != last:
            last = text
            yield f"data: {text}\n\n"
        if not state["running"]:
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(POLL_SECONDS)


def _part(name: str) -> str:
    """A file that reports have too."""
    return (resources.files("pqbench_orchestrator.output.report") / name).read_text(encoding="utf-8")


def _page(name: str, **values: Any) -> str:
    style = _part("page.css")
    template = (resources.files("pqbench_orchestrator.output.web") / name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {}  # keys in their order
    return environment.from_string(template).render(style=style, **values)
