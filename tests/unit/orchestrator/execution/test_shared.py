"""The shared store: what one machine finished, another finds; damage and outages cost work, never results."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from google.protobuf import json_format

from pqbench_orchestrator.execution.shared import SharedStepCache, SharedStore
from pqbench_orchestrator.store.step_cache import StepCache
from pqbench_wire.blobs import BlobStore
from pqbench_wire.errors import BlobCorrupt, InvalidInput, Unavailable

pytest.importorskip("obstore", reason="skipped: no obstore")


class Machine:
    """A machine's step cache and blobs; `notes` are the lines that it prints."""

    def __init__(self, folder: Path, store: SharedStore) -> None:
        self.blobs, self.notes = BlobStore(folder / "blobs"), list[str]()
        self.cache = SharedStepCache(folder / "steps.sqlite", self.notes.append, store, self.blobs)


@pytest.fixture
def store(tmp_path: Path) -> SharedStore:
    return SharedStore(f"file://{tmp_path}/store")


def put(machine: Machine, content: bytes = b"engine") -> dict[str, object]:
    result: dict[str, object] = {"engine": json_format.MessageToDict(machine.blobs.put(content)), "seconds": 2.0}
    machine.cache.put("key", "build", result, 2.0)
    return result


def file_of_blob(tmp_path: Path) -> Path:
    (path,) = (path for path in (tmp_path / "store/blobs").rglob("*") if path.is_file())
    return path


def test_another_machine_finds_results_with_their_blobs(tmp_path: Path, store: SharedStore) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store)
    assert two.cache.get("key") is None
    result = put(one)
    assert two.cache.get("key") == result
    assert two.blobs.read(two.blobs.put(b"engine")) == b"engine" and not two.notes
    file_of_blob(tmp_path).unlink()
    assert two.cache.get("key") == result, "it is in the machine's own cache now"


@pytest.mark.parametrize("damage", [b"enginf", b"eng", None])
def test_a_damaged_or_missing_blob_is_made_again(tmp_path: Path, store: SharedStore, damage: bytes | None) -> None:
    one, two, three = (Machine(tmp_path / name, store) for name in "123")
    result = put(one)
    file = file_of_blob(tmp_path)
    file.unlink() if damage is None else file.write_bytes(damage)
    assert two.cache.get("key") is None and "it is made again" in two.notes[0]
    assert put(two) == result
    assert three.cache.get("key") == result and not three.notes


def sealed(text: str) -> str:
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "content",
    [
        '{"kind": "build", "result": {}, "seconds": 1}\nother digest',
        sealed("[]"),
        sealed("{}"),
        sealed("no JSON"),
        sealed('{"kind": "build", "result": {"sha256": "../../x", "size": "1"}, "seconds": 1}'),
        sealed('{"kind": "build", "result": {"sha256": 1, "x": 2}, "seconds": 1}'),
    ],
)
def test_a_damaged_result_is_made_again(tmp_path: Path, store: SharedStore, content: str) -> None:
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store)
    result = put(one)
    (tmp_path / "store/steps/key.json").write_text(content)
    assert two.cache.get("key") is None and "is damaged" in two.notes[0]
    assert put(two) == result
    assert Machine(tmp_path / "3", store).cache.get("key") == result


def test_what_a_machine_knew_before_is_shared_too(tmp_path: Path, store: SharedStore) -> None:
    alone = StepCache(tmp_path / "1/steps.sqlite")
    one, two = Machine(tmp_path / "1", store), Machine(tmp_path / "2", store)
    result = {"engine": json_format.MessageToDict(one.blobs.put(b"engine"))}
    alone.put("key", "build", result, 1.0)
    assert two.cache.get("key") is None
    assert one.cache.get("key") == result
    assert two.cache.get("key") == result


def test_a_store_that_is_away_is_noted_once_and_the_work_goes_on(
    tmp_path: Path, store: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the store cannot be reached: no route")

    one = Machine(tmp_path / "1", store)
    with monkeypatch.context() as outage:
        outage.setattr(store, "keep", away)
        outage.setattr(store, "entry", away)
        outage.setattr(store, "has", away)
        assert put(one)["seconds"] == 2.0
        assert one.cache.get("key") is not None and one.cache.get("other") is None
    assert one.notes == [f"note: the store cannot be reached: no route; {one.notes[0].partition('; ')[2]}"]
    other = BlobStore(tmp_path / "2")
    blob = one.blobs.put(b"engine")
    with pytest.raises(BlobCorrupt):
        store.pull([blob], other)
    store.push([blob], one.blobs)
    store.pull([blob], other)
    assert other.read(blob) == b"engine"


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (f"file://{tmp_path}/file/below", "nothing://here", "a folder", ""):
        with pytest.raises(InvalidInput, match="--store .* cannot be used: .*; write a folder as file:///folder"):
            SharedStore(url)
