"""Archives of torch.export: what the compressor writes passes and computes the same; what could run code is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pqbench_compressor import export
from pqbench_runtime.backends._pt2 import rebuild
from pqbench_runtime.backends._pytorch import layer_time, load_program
from pqbench_wire.errors import InvalidInput

MODEL, CONSTANTS = "models/model.json", "data/constants/model_constants_config.json"
WEIGHTS = "data/weights/model_weights_config.json"
IMAGES = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
MARK = "pqbench-hostile-mark"
CODE = f"__import__('pathlib').Path('{MARK}').touch()"
Members = dict[str, bytes]


class Network(nn.Module):
    """Convolution, batch normalisation, attention, a buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(4))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)
        self.register_buffer("shift", torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1)) + self.shift * torch.tensor(2.0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def members(network: nn.Module) -> Members:
    """The members of a good archive by their names below its root folder."""
    with zipfile.ZipFile(io.BytesIO(export.to_pt2(network, IMAGES))) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(members: Members, root: str = "archive/", how: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(root + name, content)
    return data.getvalue()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_the_compressor_writes_passes_and_computes_the_same(network: nn.Module, dtype: torch.dtype) -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Network().eval().to(dtype)
            self.inner.load_state_dict(network.state_dict())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.to(dtype)).float()

    module = Narrow().eval()
    data = export.to_pt2(module, IMAGES)
    loaded = load_program(data).module()
    with torch.inference_mode():
        given = torch.from_numpy(IMAGES)
        torch.testing.assert_close(loaded(given), module(given))
    assert rebuild(rebuild(data)) == rebuild(data)


class Evil:
    """Its pickle runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CODE,)


def in_model(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], bytes]:
    def make(members: Members) -> bytes:
        model = json.loads(members[MODEL])
        change(model)
        return packed(members | {MODEL: json.dumps(model).encode()})

    return make


def in_text(name: str, old: str, new: str) -> Callable[[Members], bytes]:
    """Replace JSON text."""

    def make(members: Members) -> bytes:
        text = json.dumps(json.loads(members[name]))
        changed = text.replace(old, new)
        assert changed != text
        return packed(members | {name: changed.encode()})

    return make


def with_members(**more: bytes) -> Callable[[Members], bytes]:
    return lambda members: packed(
        members | {name.replace("__", "/").replace("_DOT_", "."): data for name, data in more.items()}
    )


def opaque(members: Members) -> bytes:
    tensor = next(iter(json.loads(members[WEIGHTS])["config"].values()))
    config = {"config": {"x": tensor | {"path_name": "opaque_obj_0", "use_pickle": False}}}
    added = {CONSTANTS: json.dumps(config).encode(), "data/constants/opaque_obj_0": pickle.dumps(Evil())}
    return packed(members | added)


def graph(model: dict[str, Any]) -> dict[str, Any]:
    return model["graph_module"]["graph"]


def calling(target: str, **arguments: str) -> Callable[[Members], bytes]:
    inputs = [{"name": name, "arg": {"as_string": value}, "kind": 1} for name, value in arguments.items()]
    node = {
        "target": target,
        "inputs": inputs,
        "outputs": [],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": "n",
    }
    return in_model(lambda model: graph(model)["nodes"].append(node))


def signature(model: dict[str, Any]) -> dict[str, Any]:
    return model["graph_module"]["module_call_graph"][0]["signature"]


IMPORTING = {"type": "collections.defaultdict", "children_spec": [],
             "context": {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}}  # fmt: skip
HOSTILE: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "opaque object": (opaque, "the text 'opaque_obj_0'|opaque_obj_0"),
    "legacy weights": (with_members(data__weights__model_DOT_pt=pickle.dumps(Evil())), "member"),
    "legacy constants": (with_members(data__constants__model_DOT_pt=pickle.dumps(Evil())), "member"),
    "shared library": (with_members(data__aotinductor__model__evil_DOT_wrapper_DOT_so=b"\x7fELF"), "member"),
    "another model": (with_members(models__other_DOT_json=b"{}"), "member"),
    "expression": (in_text(MODEL, "Symbol('s77', positive=True, integer=True)", CODE), "expression"),
    "huge power": (in_text(MODEL, "Symbol('s77', positive=True, integer=True)", "Pow(Integer(10), Integer(9999999999))"), "expression"),
    "name of a node": (in_text(MODEL, '"conv2d"', json.dumps(CODE)), "the text"),
    "name of a weight": (in_text(MODEL, '"head.weight"', json.dumps(f'head.w", {CODE} or "')), "the text"),
    "name of an argument": (in_model(lambda m: signature(m).update(forward_arg_names=[f"x=({CODE})"])), "the text"),
    "imported class": (in_model(lambda m: signature(m).update(out_spec=json.dumps([1, IMPORTING]))), "text|treespec"),
    "printing": (calling("torch.ops.aten._print.default", s="x"), "not on the list"),
    "file": (calling("torch.ops.aten.from_file.default", filename="/etc/passwd"), "not on the list"),
    "saving": (calling("torch.ops.aten.save.default", filename=MARK), "not on the list"),
    "python function": (calling("torch.hub.load_state_dict_from_url", url="file:///x"), "not on the list"),
    "builtin": (calling("builtins.exec", source=CODE), "not on the list"),
    "pickled weights": (in_text(WEIGHTS, '"use_pickle": false', '"use_pickle": true'), "use_pickle|not what"),
    "short weight": (lambda m: packed(m | {"data/weights/weight_0": m["data/weights/weight_0"][:8]}), "longer than its file|another dtype"),
    "deep": (lambda m: packed(m | {MODEL: b"[" * 100_000}), "not what"),
    "compressed": (lambda m: packed(m, how=zipfile.ZIP_DEFLATED), "compressed|larger than the file"),
    "truncated": (lambda m: packed(m)[:-500], "not what|member"),
    "old format": (lambda m: packed({"version": b"8.1", "serialized_exported_program.json": b"{}"}, root=""), "member"),
    "no archive": (lambda m: b"PK\x03\x04 and nothing", "not what"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_before_torch_sees_them(
    name: str, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = HOSTILE[name]
    data = make(members)
    with pytest.raises(InvalidInput, match=rf"^\.pt2 archive: .*({reason})"):
        load_program(data)
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    "make",
    [
        in_model(lambda m: m.update(guards_code=[f"{CODE} == 0"])),
        in_model(lambda m: [node["metadata"].update(stack_trace=CODE, custom="{}") for node in graph(m)["nodes"]]),
        with_members(data__sample_inputs__model_DOT_pt=pickle.dumps(Evil())),
    ],
)
def test_what_torch_would_evaluate_is_left_out(
    make: Callable[[Members], bytes],
    members: Members,
    network: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    module = load_program(make(members)).module()
    with torch.inference_mode():
        torch.testing.assert_close(module(torch.from_numpy(IMAGES)), network(torch.from_numpy(IMAGES)))
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    ("told", "precision"), [({}, ""), ({"input_dtypes": None}, ""), ({"input_dtypes": ["", "c10::Half"]}, "FP16")]
)
def test_a_layers_precision_is_empty_where_the_profiler_does_not_tell_it(
    told: dict[str, object], precision: str
) -> None:
    """PyTorch 2.11's does not."""
    event = SimpleNamespace(name="aten::conv2d", input_shapes=[[1, 3, 8, 8]], cpu_children=[], **told)
    found = layer_time(event, seconds=1e-3)
    assert (found.precision, found.type, found.name) == (precision, "conv2d", "conv2d [1, 3, 8, 8]")
