"""Regenerates the committed Python stubs from the .proto files: the only call of protoc.

python proto/gen.py [OUT]      OUT: the folder to write into (default: proto/src)
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent


def generate(out: Path) -> None:
    """Write *_pb2.py, *_pb2.pyi and *_pb2_grpc.py below `out`; raise RuntimeError if protoc fails."""
    protos = sorted(str(p.relative_to(HERE)) for p in HERE.glob("pqbench/**/*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    args = [f"-I{HERE}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if status := protoc.main(["protoc", *args, *protos]):
        raise RuntimeError(f"protoc failed with status {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "src")
