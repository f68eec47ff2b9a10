"""TensorRT's bindings: the names that a source uses of them, and what NVIDIA's parser says of a model."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest


def names_used(files: Iterable[Path]) -> set[str]:
    """The names behind `trt.`, such as "BuilderFlag.TF32", in Python files."""
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    attributes = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    return {match[1].removesuffix(".__init__") for text in attributes if (match := re.search(r"\btrt\.(.+)", text))}


def parser_errors(model: bytes) -> list[str]:
    """What TensorRT for RTX says of an ONNX model; skips the test where it is not installed."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    return [] if parser.parse(model) else [parser.get_error(index).desc() for index in range(parser.num_errors)]
