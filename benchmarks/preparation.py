"""What preparing the data once saves: an accuracy pass's input, from prepared arrays and by decoding again.

    python benchmarks/preparation.py FOLDER      FOLDER: images, one sub-folder a class

Both sides feed the same number of batches, normalised as ResNet-56 on CIFAR-10 takes them, in one run.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from pqbench.common.v1.common_pb2 import Preprocessing
from pqbench_orchestrator.dataset import DATASETS, fit, prepare
from pqbench_wire.blobs import BlobStore
from pqbench_wire.shared.inputs import load_inputs, normalise

BATCH = 32
ROUNDS = 5
PREPROCESSING = Preprocessing(
    height=32, width=32, channels=3, interpolation="bilinear", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
)


def main(folder: str) -> None:
    """Print both times and their ratio, and keep the result."""
    plugin = DATASETS.load("folder")
    split = plugin.load(plugin.Config(test=folder), Path()).split("test")
    count = len(split.labels)
    decoded, prepared = [], []
    with tempfile.TemporaryDirectory() as name:
        store = BlobStore(Path(name))
        begin = time.perf_counter()
        images = prepare(split, PREPROCESSING, store, limit=None, seed=0)
        once = time.perf_counter() - begin
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            pixels = load_inputs(store, images, PREPROCESSING)[0]
            for start in range(0, count, BATCH):
                normalise(pixels[start : start + BATCH], PREPROCESSING)
            prepared.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for start in range(0, count, BATCH):
                batch = [fit(split.open(i), PREPROCESSING) for i in range(start, min(start + BATCH, count))]
                normalise(np.stack(batch), PREPROCESSING)
            decoded.append(time.perf_counter() - begin)
    result = {
        "date": date.today().isoformat(), "images": count, "prepare_once_s": once,
        "pass_prepared_s": statistics.median(prepared), "pass_decoding_s": statistics.median(decoded),
        "ratio": statistics.median(prepared) / statistics.median(decoded),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    (Path(__file__).parent / "results" / "preparation.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/preparation.py FOLDER")
    main(sys.argv[1])
