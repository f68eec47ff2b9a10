"""`pqbench serve` over real runs, one of which goes on meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.addresses import free_port

from .conftest import COMMAND, ROOT, Pqbench, Watched, newest_run

Open = Callable[..., Watched]
Serve = Callable[[Path], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts the server over a data folder; returns its address."""
    processes: list[subprocess.Popen[str]] = []

    def start(data: Path) -> str:
        port = free_port()
        command = [*COMMAND, "serve", "--data", str(data), "--port", str(port)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                get(address + "/api/runs")
                return address
            except urllib.error.URLError:
                time.sleep(0.1)
        raise AssertionError("the server did not come up")

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def get(address: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read().decode()


def refused(address: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address, **headers)
    caught.value.close()
    return caught.value.code


@pytest.mark.long
def test_history_reports_and_comparisons(
    pqbench: Pqbench, write_manifest: Callable[..., Path], serve: Serve, open_page: Open, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, trained=True)
    for _ in range(2):
        assert pqbench("run", manifest, "--data", tmp_path / "data").code == 0
    address = serve(tmp_path / "data")
    runs = json.loads(get(address + "/api/runs"))
    assert len(runs) == 2 and all(run["outcomes"] == {"ok": 2} and not run["running"] for run in runs)
    watched = open_page(address, own=(address, "data:", "blob:"))
    page = watched.page
    assert page.locator("#runs tbody tr").count() == 2
    page.get_by_role("button", name="Compare old and new").click()
    page.wait_for_selector("#changes")
    assert page.locator("#changes tbody tr").count() == 2 and "int8" in page.locator("#changes").inner_text()
    page.get_by_role("link", name="All runs").click()
    page.get_by_role("link", name="report").first.click()
    page.wait_for_selector("#tradeoff svg.main-svg")
    page.go_back()
    page.locator("#runs tbody a").first.click()
    page.wait_for_selector("#steps tbody tr")
    assert "steps done" in page.locator("#state").inner_text()
    watched.close()
    run = runs[0]["run"]
    assert get(f"{address}/runs/{run}/results.csv").startswith("Model,")
    assert refused(f"{address}/runs/{run}/ledger.sqlite") == 404, "only what is meant to be looked at"
    assert refused(f"{address}/runs/..%2F..%2F{run}/results.csv") == 404
    assert refused(f"{address}/runs/none") == 404
    assert refused(f"{address}/compare?old={run}:nobody&new={run}") == 400
    assert refused(f"{address}/compare?old={run}:onnxruntime-cpu&new={run}") == 400, "a target on one side only"
    assert refused(address, Host="evil.example") == 400, "a page of another site cannot ask"


@pytest.mark.long
@pytest.mark.alone
def test_a_run_is_watched_live(
    write_manifest: Callable[..., Path], serve: Serve, open_page: Open, tmp_path: Path
) -> None:
    slow = {"warmup_seconds": 0.1, "min_seconds": 6, "max_seconds": 6, "min_iterations": 6}
    manifest = write_manifest(tmp_path, trained=True, measure=slow)
    data = tmp_path / "data"
    run = subprocess.Popen([*COMMAND, "run", str(manifest), "--data", str(data)], cwd=ROOT,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(data.glob("experiments/*/ledger.sqlite")) and time.monotonic() < deadline:
            time.sleep(0.1)
        folder, address = newest_run(data), serve(data)
        watched = open_page(f"{address}/runs/{folder.name}", own=(address, "data:"))
        page = watched.page
        page.wait_for_function("document.getElementById('now').innerText.includes('measure')", timeout=60_000)
        assert page.locator("#state").inner_text().startswith("running, ")
        page.wait_for_function("document.getElementById('state').innerText.startsWith('not running')", timeout=90_000)
        done, _, total = page.locator("#state").inner_text().removeprefix("not running, ").split()[:3]
        assert done == total and int(done) > 5
        watched.close()
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.wait()


def test_a_folder_without_runs_is_one_line(pqbench: Pqbench, tmp_path: Path) -> None:
    done = pqbench("serve", "--data", tmp_path)
    assert done.code == 2 and "there are no runs yet" in done.err and "Traceback" not in done.err
