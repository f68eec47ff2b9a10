"""The structure: stubs are current, imports go one way, the light parts stay light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "pqbench_wire": ROOT / "proto/src/pqbench_wire",
    "pqbench_compressor": ROOT / "services/compressor/src/pqbench_compressor",
    "pqbench_runtime": ROOT / "services/runtime/src/pqbench_runtime",
    "pqbench_orchestrator": ROOT / "orchestrator/src/pqbench_orchestrator",
}
# The way of the data: a folder or module may import only from those before it.
ORDER = ["dataset", "datasets", "metric", "metrics", "statistics", "config", "store", "steps", "planning", "execution",
         "results", "decide", "output", "experiment", "commands", "cli", "api"]  # fmt: skip


LONGEST_MODULE, LONGEST_FUNCTION = 400, 60  # lines


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_committed_stubs_are_current(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("gen", ROOT / "proto/gen.py")
    assert spec is not None and spec.loader is not None
    gen = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gen)
    gen.generate(tmp_path)
    fresh = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*_pb2*")}
    committed = {p.relative_to(ROOT / "proto/src"): p.read_text() for p in (ROOT / "proto/src/pqbench").rglob("*_pb2*.py*")
                 if p.suffix in (".py", ".pyi")}  # fmt: skip
    assert fresh == committed, "run make proto"


def test_distributions_import_only_the_wire() -> None:
    for package, folder in SOURCES.items():
        others = set(SOURCES) - {package, "pqbench_wire"}
        for path in folder.rglob("*.py"):
            roots = {name.partition(".")[0] for name in imports(path)}
            assert not roots & others, f"{path}: {roots & others}"


def test_no_arrow_runs_back() -> None:
    """Imports inside the orchestrator follow the way of the data."""
    folder = SOURCES["pqbench_orchestrator"]
    rank = {name: index for index, name in enumerate(ORDER)}
    names = {p.stem for p in folder.iterdir() if not p.name.startswith("__")}
    assert names == set(ORDER), names ^ set(ORDER)
    for (room, other), place in arrows("pqbench_orchestrator").items():
        assert rank[other] <= rank[room], f"{place}: {room} imports {other}"


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_rooms_import_each_other_in_one_direction(package: str) -> None:
    """No loop between the folders and modules of a distribution, so that they have an order."""
    found = arrows(package)
    rooms = {room for pair in found for room in pair}
    while rooms:
        leaves = {room for room in rooms if not any(a == room and b in rooms - {room} for a, b in found)}
        loop = {pair: place for pair, place in found.items() if pair[0] != pair[1] and set(pair) <= rooms}
        assert leaves, f"a loop: {loop}"
        rooms -= leaves


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_modules_are_short(package: str) -> None:
    lines = {path: len(path.read_text().splitlines()) for path in SOURCES[package].rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > LONGEST_MODULE} == {}


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_functions_are_short(package: str) -> None:
    found = {
        f"{path}: {node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES[package].rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: lines for name, lines in found.items() if lines > LONGEST_FUNCTION} == {}


def test_a_wrong_name_of_a_figure_is_a_type_error(tmp_path: Path) -> None:
    """A record of results by title, or a misspelt attribute, does not pass the type checker."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from pqbench_orchestrator.results.cell import CellResult\n\n\n"
        "def median(cell: CellResult) -> float | None:\n    return cell.medain_ms\n\n\n"
        "def title(cell: CellResult) -> object:\n    return cell['Inference Time (ms)']\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and '"CellResult" has no attribute "medain_ms"' in done.stdout, done.stdout
    assert 'Value of type "CellResult" is not indexable' in done.stdout


def arrows(package: str) -> dict[tuple[str, str], str]:
    """Which folder or module of a distribution imports which, with one place where it does."""
    folder, found = SOURCES[package], {}
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            is_own = parts[0] == package and len(parts) > 1
            if is_own and ((folder / parts[1]).is_dir() or (folder / f"{parts[1]}.py").is_file()):
                found[room, parts[1]] = str(path)
    return found


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pqbench_orchestrator.cli", {"torch", "onnxruntime", "openvino", "pqbench_compressor", "pqbench_runtime"}),
        ("pqbench_compressor.service", {"torch", "onnxruntime", "timm"}),
        ("pqbench_runtime.service", {"torch", "onnxruntime", "openvino"}),
        ("pqbench_runtime.worker", {"torch", "onnxruntime", "openvino", "grpc"}),
    ],
)
def test_entry_modules_import_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*(set({sorted(heavy)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_plugins_declare_what_they_import() -> None:
    """REQUIRES names every library beyond the distribution's own dependencies."""
    optional = {"torch", "torchvision", "timm", "torch_pruning", "onnx", "onnxruntime", "openvino", "sklearn"}
    for folder in ("models", "pruners", "quantizers", "backends", "datasets", "metrics"):
        for path in ROOT.glob(f"*/**/src/pqbench_*/{folder}/*.py"):
            if path.stem.startswith("_"):
                continue
            used = {name.partition(".")[0] for name in imports(path)} & optional
            tree = ast.parse(path.read_text())
            assigned = [
                n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "REQUIRES"
            ]
            declared = set(ast.literal_eval(assigned[0].value))
            assert used <= declared, f"{path}: {used - declared}"


def test_listing_imports_no_library() -> None:
    code = (
        "import sys; from pqbench_compressor.plugins import MODELS, PRUNERS, QUANTIZERS\n"
        "[c.describe(n, schema=False) for c in (MODELS, PRUNERS, QUANTIZERS) for n in c.names]\n"
        "assert 'torch' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
