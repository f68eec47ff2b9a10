"""Four minutes of the disturbances of `make chaos`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import ROOT

MINUTES = 4


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_disturbed_runs_end_with_the_right_table() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", str(MINUTES), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "each ended with the right table" in done.stdout
