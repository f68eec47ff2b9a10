"""What a stock tritonclient sees of a runtime: run by a Python of its own, python triton_client.py ADDRESS MODEL.

Prints JSON: the outputs for a ramp of one and of two examples, and what metadata, config and statistics say.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import shared_memory as memory

SIZES = {"given": 128, "wanted": 24}  # bytes

address, model = sys.argv[1:]
client = triton.InferenceServerClient(address)


def infer(count: int, name: str = "input", of: str = model) -> Any:
    array = np.arange(count * 16, dtype=np.float32).reshape(count, 1, 4, 4)
    given = triton.InferInput(name, array.shape, "FP32")
    given.set_data_from_numpy(array)
    return client.infer(of, [given], outputs=[triton.InferRequestedOutput("output")]).as_numpy("output").tolist()


def shared() -> Any:
    """As `infer` with two examples, with input and output in shared memory."""
    array = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    regions = {name: memory.create_shared_memory_region(name, f"/pqbench-{name}", size) for name, size in SIZES.items()}
    try:
        memory.set_shared_memory_region(regions["given"], [array])
        for name, size in SIZES.items():
            client.register_system_shared_memory(name, f"/pqbench-{name}", size)
        given, wanted = triton.InferInput("input", array.shape, "FP32"), triton.InferRequestedOutput("output")
        given.set_shared_memory("given", SIZES["given"])
        wanted.set_shared_memory("wanted", SIZES["wanted"])
        client.infer(model, [given], outputs=[wanted])
        client.unregister_system_shared_memory()
        return memory.get_contents_as_numpy(regions["wanted"], np.float32, [2, 3]).tolist()
    finally:
        for region in regions.values():
            memory.destroy_shared_memory_region(region)


def code(count: int, name: str = "input", of: str = model) -> str:
    try:
        infer(count, name, of)
    except triton.InferenceServerException as error:
        return str(error.status())
    return "OK"


def counted() -> int:
    return int(client.get_inference_statistics(model, as_json=True)["model_stats"][0].get("inference_count", 0))


before = counted()
seen = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready() and client.is_model_ready(model),
    "unknown_ready": client.is_model_ready("unknown"),
    "one": infer(1),
    "two": infer(2),
    "shared": shared(),
    "codes": [code(3), code(1, "wrong"), code(1, of="unknown"), code(2_000_000)],
    "metadata": client.get_model_metadata(model, as_json=True),
    "config": client.get_model_config(model, as_json=True)["config"],
    "counted": counted() - before,
    "index": client.get_model_repository_index(as_json=True)["models"],
}
print(json.dumps(seen))
