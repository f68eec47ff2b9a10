"""Blobs: content addressing, verification, and moving between stores that share nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest

from pqbench.blob.v1 import blob_pb2, blob_pb2_grpc
from pqbench.common.v1.common_pb2 import Blob
from pqbench_wire.blob_service import BlobServicer
from pqbench_wire.blobs import CHUNK, BlobStore
from pqbench_wire.client import Client
from pqbench_wire.errors import BlobCorrupt, InvalidInput, NotFound
from pqbench_wire.interceptor import Interceptor


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[BlobStore, Client]]:
    store = BlobStore(tmp_path / "remote")
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Interceptor(None)])
    blob_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = Client(f"127.0.0.1:{port}")
    yield store, client
    client.close()
    server.stop(None).wait()


def test_a_blob_is_named_by_its_content(store: BlobStore) -> None:
    blob = store.put(b"abc")
    assert blob.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert store.read(blob) == b"abc"
    assert store.put(b"abc") == blob


def test_arrays_come_back_memory_mapped_and_read_only(store: BlobStore) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    back = store.array(store.put_array(array))
    assert isinstance(back, np.memmap) and not back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_pickled_arrays_are_refused(store: BlobStore, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="not a .npy array"):
        store.array(store.put_file(tmp_path / "objects.npy"))


def test_a_damaged_blob_is_noticed(store: BlobStore) -> None:
    blob = store.put(b"abc")
    store.path(blob).write_bytes(b"abd")
    with pytest.raises(BlobCorrupt):
        store.read(blob)


def test_damage_is_noticed_at_first_use_in_a_process_and_after_a_change(store: BlobStore) -> None:
    blob = store.put(b"abc")
    path = store.path(blob)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"abd")
    os.utime(path, ns=times)  # of the same size and time, as after a fault of the disk
    fresh = BlobStore(store.root)
    assert fresh.has(blob), "what is in it is looked at when it is used"
    with pytest.raises(BlobCorrupt, match=f"damaged: blob {blob.sha256}"):
        fresh.path(blob)
    assert not fresh.has(blob), "a damaged file is removed: the blob can be made or sent again"
    again = fresh.put(b"abc")
    assert fresh.read(again) == b"abc"
    path.write_bytes(b"xyz")
    with pytest.raises(BlobCorrupt):
        fresh.read(again)


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "", "0" * 63])
def test_only_digests_name_files(store: BlobStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a SHA-256"):
        store.path(Blob(sha256=name, size=1))


def test_a_failed_write_leaves_nothing(store: BlobStore) -> None:
    with pytest.raises(BlobCorrupt), store.writer(expected=Blob(sha256="0" * 64, size=3)) as out:
        out.write(b"abc")
    assert [p for p in store.root.rglob("*") if p.is_file()] == []


def test_push_and_pull_stream_in_chunks(store: BlobStore, remote: tuple[BlobStore, Client]) -> None:
    theirs, client = remote
    data = np.random.default_rng(0).bytes(2 * CHUNK + 17)
    blob = store.put(data)
    client.push(store, [blob])
    assert theirs.read(blob) == data
    other = theirs.put(b"from there")
    client.pull(store, [other, blob])
    assert store.read(other) == b"from there"


def test_a_shared_folder_copies_nothing(remote: tuple[BlobStore, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, client = remote
    same = BlobStore(theirs.root)
    blob = same.put(b"shared")
    before = theirs.path(blob).stat()
    client.push(same, [blob])
    client.pull(same, [blob])
    after = theirs.path(blob).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_both_ends_verify(store: BlobStore, remote: tuple[BlobStore, Client]) -> None:
    theirs, client = remote
    blob = store.put(b"right")
    store.path(blob).write_bytes(b"wrong")
    with pytest.raises(BlobCorrupt):
        client.push(store, [blob])
    assert not theirs.has(blob)
    damaged = theirs.put(b"right")
    theirs.path(damaged).write_bytes(b"wrong")
    empty = BlobStore(store.root.parent / "empty")
    with pytest.raises(BlobCorrupt):
        client.pull(empty, [damaged])
    assert not empty.has(damaged)


def test_a_missing_blob_is_not_found(store: BlobStore, remote: tuple[BlobStore, Client]) -> None:
    with pytest.raises(NotFound):
        remote[1].pull(store, [Blob(sha256="0" * 64, size=1)])


def test_a_write_must_announce_its_blob(remote: tuple[BlobStore, Client]) -> None:
    stub = blob_pb2_grpc.BlobServiceStub(remote[1].channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Write(iter([blob_pb2.WriteRequest(chunk=b"x")]), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
