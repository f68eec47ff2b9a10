"""An allow-list for .pt2 archives (torch.export, schema 8): `rebuild` gives an archive of our own making.

torch.export.load evaluates much of what an archive holds: pickles, shared libraries, expressions, guards, names that
end in generated code. So nothing of a given archive reaches torch but raw bytes of tensors, numbers, and text that the
rule for its field admits. The rule goes by the field's name, wherever in the JSON it stands: PyTorch's reader does not
check types either, so what matters is that no text is anywhere where it could be evaluated. Operators are those of a
list: none that reads files, prints, or gives memory as it was found.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from math import prod
from typing import Any, NoReturn

import torch

from pqbench_wire.errors import InvalidInput

BROKEN = (  # what reading a field that is missing or of another type raises, and a damaged archive
    KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError, zipfile.BadZipFile, zlib.error,
    RecursionError, NotImplementedError, EOFError, OSError, struct.error,
)  # fmt: skip
MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/", "data/constants/"
MEMBERS = re.compile(
    r"[^/\\]{1,255}/(data/weights/(weight_\d{1,6}|model_weights_config\.json)|data/sample_inputs/model\.pt|byteorder"
    r"|data/constants/(tensor_\d{1,6}|model_constants_config\.json)|models/model\.json|archive_(format|version)"
    r"|\.data/(version|serialization_id))"
)
OURS = {"data/sample_inputs/model.pt": b"", "archive_format": b"pt2", "archive_version": b"0", ".data/version": b"6\n",
        "byteorder": b"little"}  # fmt: skip
NAME, FQN = r"(?!__)[A-Za-z_]\w{0,255}", r"(?!__)[\w/-]{1,128}(\.(?!__)[\w/-]{1,128})*"
TAKEN = {  # names in the code that torch.fx writes
    *keyword.kwlist, "torch", "self", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree", "math", "getattr",
    "slice", "complex", "forward",
}  # fmt: skip
WORDS = re.compile(r"[\w ,.>-]{0,256}", re.ASCII)  # "floor", "tanh", "bij,bjk->bik"; another is an assertion's message
SYMBOL = r"[su]\d{1,4}"
SIZES = {  # bytes of an element of each dtype, by its number in torch.export's schema
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2,
    28: 2, 29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8,
}  # fmt: skip
SCALARS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|mod|pow|truediv|neg|eq|ne|le|ge|lt|gt|and_|or_)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.trunc"
)
NUMBERS = {"as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool"}
SCOPES = {"torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast"}
ATEN = re.compile(r"torch\.ops\.aten\.([a-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
ALLOWED = {
    line for line in (resources.files(__package__) / "_pt2_operators.txt").read_text().splitlines() if line[0] != "#"
}
# Other overloads of these read beyond their arguments or crash: explicit scales, packed sequences.
ONLY = dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), ("input",)) | {
    name: ("vec",) for name in ALLOWED if "upsample_" in name
}
ZEROED = {f"torch.ops.aten.{empty}": f"torch.ops.aten.{zero}" for empty, zero in (  # memory as found holds others' data
    ("empty_like.default", "zeros_like.default"), ("new_empty.default", "new_zeros.default"),
    ("empty.memory_format", "zeros.default"))}  # fmt: skip
CALLS = {
    "Add", "Mul", "Min", "Max", "FloorDiv", "Mod", "PythonMod", "ModularIndexing", "CeilDiv", "CleanDiv",
    "CeilToInt", "FloorToInt", "TruncToInt", "IntTrueDiv", "ToFloat", "Equality", "Unequality",
    "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not",
}  # fmt: skip
ASSUMPTIONS = {"positive", "integer", "nonnegative", "real"}
LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def rebuild(data: bytes) -> bytes:
    """The same program in an archive of our own. Raises InvalidInput for anything that is not on the list."""
    try:
        members = _members(data)
        made = {MODEL: _written(_program(_walk(_json(members, MODEL), "")))}
        for folder, config in ((WEIGHTS, "model_weights_config.json"), (CONSTANTS, "model_constants_config.json")):
            payload = _walk(_json(members, folder + config), "")
            made |= _files(payload["config"], members, folder) | {folder + config: _written(payload)}
    except BROKEN as error:
        raise InvalidInput(
            f".pt2 archive: not what torch.export.save writes: {type(error).__name__}: {error}"
        ) from error
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (made | OURS).items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return out.getvalue()


def _no(what: str) -> NoReturn:
    raise InvalidInput(f".pt2 archive: {what}")


def _members(data: bytes) -> dict[str, bytes]:
    """Name under the root folder to content: every one is on the list, given once, and stored as it is."""
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(data):
            _no("it says that it holds more than it does")
        for entry in entries:
            root, _, name = entry.filename.partition("/")
            if not MEMBERS.fullmatch(entry.filename) or name in found or root != entries[0].filename.partition("/")[0]:
                _no(f"member {entry.filename[:100]!r} is none that torch.export.save writes for plain tensors")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                _no(f"member {name} is compressed or encrypted")
            found[name] = archive.read(entry)
    for name in ("archive_format", "archive_version", "byteorder"):
        if found.get(name, OURS[name] if name == "byteorder" else b"") != OURS[name]:
            _no(f"{name} is not {str(OURS[name], 'ascii')}")
    return found


def _json(members: dict[str, bytes], name: str) -> Any:
    return json.loads(members[name], parse_constant=_no) if name in members else _no(f"member {name} is missing")


def _written(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _files(config: dict[str, Any], members: dict[str, bytes], folder: str) -> dict[str, bytes]:
    """The files that a config names, each long enough for every tensor in it."""
    files: dict[str, bytes] = {}
    dtypes: dict[str, int] = {}
    for fqn, entry in config.items():
        path, meta = folder + entry["path_name"], entry["tensor_meta"]
        content = files[path] = members[path] if path in members else _no(f"{path} is missing")
        sizes, strides = ([_natural(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        last = _natural(meta["storage_offset"]["as_int"]) + sum(
            (size - 1) * stride for size, stride in zip(sizes, strides, strict=True)
        )
        if len(content) % SIZES[meta["dtype"]] or dtypes.setdefault(path, meta["dtype"]) != meta["dtype"]:
            _no(f"{fqn}: its file is of another dtype")
        if 0 not in sizes and max(last + 1, prod(sizes)) * SIZES[meta["dtype"]] > len(content):
            _no(f"{fqn} is longer than its file")
    return files


def _natural(value: Any) -> int:
    return value if type(value) is int and value >= 0 else _no(f"{str(value)[:50]!r} is no size")


def _walk(value: Any, key: str) -> Any:  # noqa: C901  # one case a kind of value
    """A value of the field `key` as it is written, checked by the field's name."""
    if key in EMPTIED:
        return EMPTIED[key]
    if key in FIXED:
        return value if (type(value), value) in FIXED[key] else _no(f"{key} is {str(value)[:60]!r}")
    if key in TEXT and value is not None:
        return TEXT[key](value) if type(value) is str else _no(f"{key} is no text")
    match value:
        case dict() if key in TABLES:
            return {_text(TABLES[key], TAKEN)(name): _walk(one, "") for name, one in value.items()}
        case dict():
            if not value.keys() <= KEYS:
                _no(f"{', '.join(sorted(value.keys() - KEYS))[:100]!r} is none of the fields of plain tensors")
            renamed = {"name": "argument"} if "arg" in value else {}
            made = {name: _walk(one, str(renamed.get(name, name))) for name, one in value.items()}
            if "nodes" in made and any(one.keys() - {"as_tensor", "as_sym_int"} for one in made["inputs"]):
                _no("a graph takes other than tensors and sizes")
            return _node(made) if "target" in made else made
        case list():
            return [_walk(one, key) for one in value]
        case str() if key in TEXTS:
            return TEXTS[key](value)
        case None | bool() | float():
            return value
        case int() if abs(value) <= 2**63:
            return value
    _no(f"{key} is {str(value)[:60]!r}")


def _text(pattern: str, but: Any = ()) -> Callable[[str], str]:
    whole = re.compile(pattern, re.ASCII)
    return lambda value: value if whole.fullmatch(value) and value not in but else _no(f"the text {value[:100]!r}")


def _node(node: dict[str, Any]) -> dict[str, Any]:
    kinds = {kind for one in node["inputs"] for kind in one["arg"]}
    if "as_graph" in kinds and node["target"] not in SCOPES:
        _no(f"{node['target']} is given a graph")
    if SCALARS.fullmatch(node["target"]) and not kinds <= NUMBERS:
        _no(f"{node['target']} is given other than numbers")
    if node["target"] == "_operator.pow" and node["inputs"][1]["arg"] not in [{"as_int": power} for power in range(5)]:
        _no("a power of a size is above the fourth")
    return node


@cache
def _registered() -> frozenset[str]:
    """PyTorch's operators by their full names, without those that only TorchScript has (aten::save, aten::format)."""
    return frozenset(torch._C._dispatch_get_all_op_names())


def _operator(target: str) -> str:
    target = ZEROED.get(target, target)
    if SCALARS.fullmatch(target) or target in SCOPES:
        return target
    found = ATEN.fullmatch(target)
    if found is None or found[1] not in ALLOWED or found[2] not in ONLY.get(found[1], (found[2],)):
        _no(f"operator {target[:100]!r} is not on the list")
    if f"aten::{found[1]}.{found[2]}".removesuffix(".default") not in _registered():
        _no(f"operator {target[:100]!r} is none of this PyTorch")
    schema = getattr(getattr(torch.ops.aten, found[1]), found[2])._schema
    return _no(f"operator {target[:100]!r} writes elsewhere") if any(a.is_out for a in schema.arguments) else target


def _expression(value: str) -> str:
    """sympy's srepr of an expression over sizes: parsed here, and written anew."""
    try:
        return _term(ast.parse(value, mode="eval").body) if len(value) < 1000 else _no("an expression is too long")
    except (SyntaxError, MemoryError) as error:
        raise InvalidInput(f".pt2 archive: an expression cannot be read: {error}") from error


def _term(node: ast.expr) -> str:
    match node:
        case ast.Call(ast.Name("Integer"), [ast.Constant(int(n))], []) if n < 2**63:
            return f"Integer({n:d})"
        case ast.Call(ast.Name("Integer"), [ast.UnaryOp(ast.USub(), ast.Constant(int(n)))], []) if n <= 2**63:
            return f"Integer(-{n:d})"
        case ast.Call(ast.Name("Symbol"), [ast.Constant(str(name))], options) if re.fullmatch(SYMBOL, name, re.ASCII):
            said = {one.arg: one.value.value for one in options if isinstance(one.value, ast.Constant)}
            if len(said) == len(options) and said.keys() <= ASSUMPTIONS and {*map(type, said.values())} <= {bool}:
                return f"Symbol({', '.join([repr(name), *(f'{key}={truth!r}' for key, truth in said.items())])})"
        case ast.Call(ast.Name("Pow" | "PowByNatural" as name), [ast.Call(ast.Name("Symbol")) as base, power], []):
            if (exponent := _term(power)) in {f"Integer({n})" for n in (-1, 2, 3, 4)}:  # never a tower of powers
                return f"{name}({_term(base)}, {exponent})"
        case ast.Call(ast.Name(name), [_, *_] as terms, []) if name in CALLS:
            return f"{name}({', '.join(map(_term, terms))})"
    _no(f"the expression {ast.unparse(node)[:100]!r} is none over sizes")


def _tree(value: Any) -> tuple[dict[str, Any], int]:
    """A treespec of tuples, lists and dictionaries, and its number of leaves."""
    if value == LEAF:
        return LEAF, 1
    kind = _text(r"builtins\.(tuple|list|dict)|collections\.OrderedDict")(value["type"])
    below = [_tree(one) for one in value["children_spec"]]
    context = json.loads(value["context"])
    if kind.lower().endswith("dict"):
        if [type(one) for one in context] != [str] * len(below):
            _no("a treespec has other keys than texts")
    elif context is not None:
        _no("a treespec has a context")
    made = {"type": kind, "context": json.dumps(context), "children_spec": [tree for tree, _ in below]}
    return made, sum(leaves for _, leaves in below)


def _spec(value: str) -> str:
    version, tree = json.loads(value)
    return json.dumps([1, _tree(tree)[0]]) if version == 1 else _no("a treespec of another version")


def _program(model: dict[str, Any]) -> dict[str, Any]:
    """The same with one entry of the modules' calls, for as many inputs by position and outputs as the graph has."""
    module = model["graph_module"]
    entry = module["module_call_graph"][0]
    said, signature = entry["signature"], module["signature"]
    takes = [one["user_input"]["arg"] for one in signature["input_specs"] if "user_input" in one]
    given = len(takes) if all(one.keys() == {"as_tensor"} for one in takes) else _no("an input is no tensor")
    made = sum("user_output" in one for one in signature["output_specs"])
    inputs = {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF] * given}
    named = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    whole = {"type": "builtins.tuple", "context": "null", "children_spec": [inputs, named]}
    if json.loads(said["in_spec"])[1] != whole:
        _no("the program takes other than tensors by position")
    if _tree(json.loads(said["out_spec"])[1])[1] != made or len(said["forward_arg_names"] or range(given)) != given:
        _no("the program's outputs or names of inputs are not as many as its graph has")
    module["module_call_graph"] = [entry]
    return model


EMPTIED: dict[str, Any] = {"metadata": {}, "guards_code": [], "treespec_namedtuple_fields": {}, "custom_obj_values": {}}
FIXED: dict[str, set[tuple[type, Any]]] = {
    "use_pickle": {(bool, False)},
    "layout": {(int, 7)},
    "as_layout": {(int, 7)},
    "index": {(type(None), None)},
    "type": {(str, "cpu")},
    "major": {(int, 8)},
    "dtype": {(int, one) for one in SIZES},
    "as_scalar_type": {(int, one) for one in SIZES},
}
TEXT = {  # one text; must not be anything else
    "target": _operator, "argument": _text(f"({NAME})?"), "name": _text(NAME, TAKEN), "as_name": _text(NAME, TAKEN),
    "expr_str": _expression, "path_name": _text(r"(weight|tensor)_\d{1,6}"), "user_input_name": _text(NAME, TAKEN),
    "parameter_name": _text(FQN), "buffer_name": _text(FQN), "tensor_constant_name": _text(FQN),
    "as_string": lambda value: value if WORDS.fullmatch(value) else "", "in_spec": _spec, "out_spec": _spec,
    "torch_version": _text(r"[\w.+-]{1,64}"),
}  # fmt: skip
TEXTS = {"forward_arg_names": _text(NAME, TAKEN), "verifiers": _text("TRAINING|ATEN"), "fqn": _text(f"({FQN})?"),
         "as_float": _text("-?Infinity|NaN"), "as_floats": _text("-?Infinity|NaN")}  # fmt: skip
TABLES = {"config": FQN, "range_constraints": SYMBOL} | dict.fromkeys(
    ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"), NAME)  # fmt: skip
KEYS = {
    *EMPTIED, *FIXED, *TEXT, *TEXTS, *TABLES, *NUMBERS,
    "as_none", "as_tensor", "as_tensors", "as_ints", "as_bools", "as_sym_ints", "as_sym_floats", "as_sym_bools",
    "as_memory_format", "as_device", "as_optional_tensors", "as_graph", "as_expr", "hint", "is_param",
    "tensor_meta", "sizes", "strides", "storage_offset", "requires_grad", "device", "graph_module", "graph",
    "signature", "module_call_graph", "opset_version", "aten", "schema_version", "minor", "min_val", "max_val",
    "inputs", "outputs", "nodes", "is_single_tensor_return", "arg", "kind", "is_hop_single_tensor_return",
    "input_specs", "output_specs", "user_input", "parameter", "buffer", "persistent", "tensor_constant",
    "user_output", "buffer_mutation", "user_input_mutation",
}  # fmt: skip
