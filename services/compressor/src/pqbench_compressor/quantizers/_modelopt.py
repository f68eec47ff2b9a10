"""Runs ModelOpt in a separate process: python -m pqbench_compressor.quantizers._modelopt FOLDER OPTIONS

It reads model.onnx and inputs.npz in FOLDER and writes quantized.onnx. OPTIONS are more arguments of
ModelOpt's `quantize`, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize


def main(folder: Path, options: dict[str, str]) -> None:
    """Quantize the folder's model to INT8."""
    quantize(
        str(folder / "model.onnx"), quantize_mode="int8", calibration_data=dict(np.load(folder / "inputs.npz")),
        calibration_eps=["cpu"], output_path=str(folder / "quantized.onnx"), log_level="ERROR", **options,
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
