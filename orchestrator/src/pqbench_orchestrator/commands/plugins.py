"""`pqbench list`: the plug-ins of a kind, from this package or from a local service that has them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from pqbench.common.v1.common_pb2 import Plugin
from pqbench.compressor.v1 import compressor_pb2, compressor_pb2_grpc
from pqbench.runtime.v1 import runtime_pb2, runtime_pb2_grpc
from pqbench_orchestrator.dataset import DATASETS
from pqbench_orchestrator.execution.launch.process import ProcessLauncher
from pqbench_orchestrator.metric import METRICS
from pqbench_wire.catalog import unknown
from pqbench_wire.errors import InvalidInput

OF_COMPRESSOR = {"models": "model", "pruners": "pruner", "quantizers": "quantizer"}
KINDS = ("models", "datasets", "pruners", "quantizers", "backends", "metrics")


def listing(kind: str) -> list[dict[str, Any]]:
    """The plug-ins of one of KINDS, each with name, summary, availability and configuration schema.

    Raises InvalidInput for an unknown kind, Unavailable where the service that has them cannot be started.
    """
    if kind not in KINDS:
        raise InvalidInput(unknown("kind", kind, KINDS))
    if kind == "datasets":
        return [_entry(DATASETS.describe(name)) for name in DATASETS.names]
    if kind == "metrics":
        return [_entry(METRICS.describe(name, schema=False)) for name in METRICS.names]
    found = backends() if kind == "backends" else _of_compressor(OF_COMPRESSOR[kind])
    return [entry for plugin in found for entry in _members(plugin)]


def backends() -> list[Plugin]:
    """The backends of a local runtime, which is started for this. Raises Unavailable."""
    return [backend.plugin for backend in capabilities()]


def capabilities() -> list[runtime_pb2.Backend]:
    """The backends of a local runtime with their routes. Raises Unavailable."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ProcessLauncher("pqbench_runtime", Path(folder), Path(folder, "log"))
        try:
            client = launcher.start()
            stub = runtime_pb2_grpc.RuntimeServiceStub(client.channel)
            answer = client.call(stub.GetCapabilities, runtime_pb2.GetCapabilitiesRequest())
        finally:
            launcher.stop()
    return list(answer.backends)


def _of_compressor(kind: str) -> list[Plugin]:
    with tempfile.TemporaryDirectory() as folder:
        launcher = ProcessLauncher("pqbench_compressor", Path(folder), Path(folder, "log"))
        try:
            client = launcher.start()
            stub = compressor_pb2_grpc.CompressorServiceStub(client.channel)
            answer = client.call(stub.GetCapabilities, compressor_pb2.GetCapabilitiesRequest(details=True))
        finally:
            launcher.stop()
    return [plugin for plugin in answer.plugins if plugin.kind == kind]


def _members(plugin: Plugin) -> list[dict[str, Any]]:
    """The entries of a plug-in: one for each member of a model family, under the name that a manifest uses."""
    if not plugin.names:
        return [_entry(plugin)]
    own_files = plugin.name in ("code", "onnx")
    return [_entry(plugin) | {"name": name if own_files else f"{plugin.name}/{name}"} for name in plugin.names]


def _entry(plugin: Plugin) -> dict[str, Any]:
    entry = json_format.MessageToDict(
        plugin, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    entry.pop("names")
    return entry
