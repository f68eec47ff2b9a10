"""The Python of the docs runs as it is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_calling_the_services(tmp_path: Path) -> None:
    """docs/grpc.md, all blocks in one process, against services of its own."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "grpc.md").read_text(), re.DOTALL))
    started = [
        subprocess.Popen([sys.executable, "-m", name, "--data", str(tmp_path)], stdout=subprocess.PIPE)
        for name in ("pqbench_compressor", "pqbench_runtime")
    ]
    try:
        addresses = [json.loads(process.stdout.readline())["listening"] for process in started if process.stdout]
        environment = os.environ | dict(zip(("COMPRESSOR", "RUNTIME"), addresses, strict=True))
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert done.returncode == 0, done.stderr
    *_, built, median, shape, classes = [line for line in done.stdout.splitlines() if not line.endswith("%")]
    assert "'INT8': " in built and " as onnxruntime-" in built
    assert median.startswith("median ") and shape == "(128, 10)"
    inferred, predicted = re.findall(r"\[[^]]*\]", classes)
    assert inferred == predicted
