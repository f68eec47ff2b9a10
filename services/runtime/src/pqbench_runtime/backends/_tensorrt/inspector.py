"""Reads layers from the engine inspector's JSON: names, kernels and the precisions that they execute in.

The JSON differs between versions: tensors have "Format/Datatype" up to 10, "Datatype" and "Format" from 11 on. Layers
without details are bare names. Before 10, layers are listed once for each optimization profile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pqbench_runtime.backend import UNKNOWN, Layer

# Patterns in a kernel's name that show the precision of its products; the first that matches counts.
TACTICS = (
    (re.compile(r"e4m3|fp8"), "FP8"),
    (re.compile(r"(?<![a-z0-9])i8i8|int8|imma|(?<![a-z0-9])s8"), "INT8"),
    (re.compile(r"int4|w4a16|(?<![a-z0-9])i4"), "INT4"),
    (re.compile(r"bf16"), "BF16"),
    (re.compile(r"tf32"), "TF32"),
    (re.compile(r"f16f16|fp16|hmma|h884|h1688|h16816|(?<![a-z])half"), "FP16"),
    (re.compile(r"sgemm|ffma|f32f32|fp32|scudnn"), "FP32"),
)
# The same for types, the narrowest first: a text such as "bfloat16" matches several.
FORMATS = (
    (re.compile(r"int4"), "INT4"),
    (re.compile(r"int8|\bi8\b"), "INT8"),
    (re.compile(r"fp8|e4m3"), "FP8"),
    (re.compile(r"bf16|bfloat16"), "BF16"),
    (re.compile(r"fp16|half|float16"), "FP16"),
    (re.compile(r"fp32|float|float32"), "FP32"),
)
COMPUTE = re.compile(r"conv|gemm|matmul|matrixmultiply|matrix_multiply|fullyconnected|attention|mha", re.IGNORECASE)
PROFILE = re.compile(r" \[profile \d+\]$", re.IGNORECASE)
OPAQUE = re.compile(r"foreignnode|myelin", re.IGNORECASE)  # many operators fused in a kernel without details


def layers_of(information: str) -> list[Layer]:
    """The layers of an engine; a precision that the JSON does not reveal is "unknown"."""
    entries = json.loads(information).get("Layers", [])
    found: dict[str, Layer] = {}
    for entry in entries:
        layer = _layer(entry)
        found.setdefault(layer.name, layer)
    return list(found.values())


def sparse_tactics(layers: Sequence[Layer]) -> str:
    """The layers whose kernels use sparse tensor cores, for an engine's settings."""
    names = [layer.name for layer in layers if "sparse" in layer.tactic.lower()]
    return ", ".join(names) or "none was faster than dense"


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):
        name = str(entry)
        return Layer(name=name, type="", precision=UNKNOWN, compute=bool(OPAQUE.search(name)))
    kind, tactic = str(entry.get("LayerType", "")), str(entry.get("TacticName", ""))
    name = PROFILE.sub("", str(entry.get("Name", "")))
    outputs, inputs = entry.get("Outputs") or [], entry.get("Inputs") or []
    opaque = bool(OPAQUE.search(f"{kind} {name}")) and not tactic
    return Layer(
        name=name,
        type=str(entry.get("ParameterType") or kind),
        precision=UNKNOWN if opaque else _by_tactic(tactic) or _by_types(inputs or outputs, entry.get("Weights")),
        compute=opaque or bool(COMPUTE.search(f"{kind} {entry.get('ParameterType', '')} {tactic}")),
        tactic=tactic,
        format=_format(outputs),
    )


def _by_tactic(tactic: str) -> str:
    return next((name for pattern, name in TACTICS if pattern.search(tactic.lower())), "")


def _by_types(tensors: list[Any], weights: Any) -> str:
    """The narrowest type of the tensors and of the weights: the precision of a layer whose kernel's name shows none."""
    texts = [" ".join(str(one.get(key, "")) for key in ("Datatype", "Format/Datatype")) for one in tensors]
    texts += [str(weights.get("Type", ""))] if isinstance(weights, dict) else []
    return next((name for pattern, name in FORMATS if any(pattern.search(text.lower()) for text in texts)), UNKNOWN)


def _format(tensors: list[Any]) -> str:
    return str(tensors[0].get("Format", tensors[0].get("Format/Datatype", ""))) if tensors else ""
