"""A bundle's digests and signature: what was changed, added, removed or signed by others is found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import minisign
import pytest

from pqbench_orchestrator.output.signing import DIGESTS, SIGNATURE, read_key, sign, verify, write_digests
from pqbench_wire.errors import InvalidInput


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "notes").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(100))
    (folder / "notes" / "card.md").write_text("fast")
    write_digests(folder)
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a secret key with the password "secret" and of its public key."""
    pair = minisign.KeyPair.generate()
    pair.secret_key.encrypt("secret", opslimit=2**15, memlimit=2**24)
    files = tmp_path / "own.key", tmp_path / "own.pub"
    files[0].write_bytes(bytes(pair.secret_key))
    files[1].write_bytes(bytes(pair.public_key))
    return files


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda _: None, []),
    "a file": (lambda f: (f / "model.onnx").write_bytes(bytes(99)), ["model.onnx: changed since it was exported"]),
    "one more": (lambda f: (f / "run.sh").write_text("rm"), [f"run.sh: not listed in {DIGESTS}"]),
    "one less": (lambda f: (f / "notes/card.md").unlink(), ["notes/card.md: missing"]),
    "a dead link": (
        lambda f: ((f / "model.onnx").unlink(), (f / "model.onnx").symlink_to("nowhere")),
        ["model.onnx: changed since it was exported"],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_every_change_is_named(bundle: Path, case: str) -> None:
    change, problems = CHANGES[case]
    change(bundle)
    found = verify(bundle, None)
    assert found.problems == problems and not found.is_signed
    assert found.files == 2 - (case not in ("nothing", "one more"))


def test_a_signature_says_who_exported_what(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, read_key(keys[0], lambda: "secret"), "cell 1 of run 2")
    for key in (str(keys[1]), keys[1].read_text().splitlines()[1]):
        found = verify(bundle, key)
        assert (found.problems, found.signed_as, found.files) == ([], "cell 1 of run 2", 2)
    assert verify(bundle, None).is_signed and verify(bundle, None).signed_as is None
    (other,) = (minisign.KeyPair.generate().public_key,)
    (problem,) = verify(bundle, other.to_base64().decode()).problems
    assert problem == f"{SIGNATURE}: not a signature by this key: incompatible key identifiers"


@pytest.mark.parametrize("what", ["digests", "comment", "removed", "no signature"])
def test_a_forged_bundle_is_found(bundle: Path, keys: tuple[Path, Path], what: str) -> None:
    sign(bundle, read_key(keys[0], lambda: "secret"), "cell 1 of run 2")
    signature = bundle / SIGNATURE
    if what == "digests":  # of a model that was replaced
        (bundle / "model.onnx").write_bytes(bytes(99))
        write_digests(bundle)
    elif what == "comment":
        signature.write_text(signature.read_text().replace("cell 1", "cell 9"))
    elif what == "removed":
        signature.unlink()
    else:
        signature.write_text("no signature")
    found = verify(bundle, str(keys[1]))
    assert len(found.problems) == 1 and found.signed_as is None
    assert found.problems[0].startswith(f"{SIGNATURE}: not a signature by this key: ")
    assert what != "removed" or found.problems[0].endswith("there is none")


def test_bad_input_is_one_line(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=f"has no file {DIGESTS}"):
        verify(tmp_path / "empty", None)
    for wrong in ("nothing", str(keys[0]), ""):
        with pytest.raises(InvalidInput, match="neither a file with a public key of minisign nor such a key"):
            verify(bundle, wrong)
    for file, password in ((keys[0], "wrong"), (keys[1], "secret"), (tmp_path / "nothing", "secret")):
        with pytest.raises(InvalidInput, match="`minisign -G` makes a pair of keys"):
            read_key(file, lambda password=password: password)  # type: ignore[misc]


def test_the_formats_are_those_of_the_tools(bundle: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "--strict", DIGESTS], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines() == ["model.onnx: OK", "notes/card.md: OK"]
