"""The compressor service beside its worker: what it answers without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench.compressor.v1.worker_pb2 import WorkerReply, WorkerRequest
from pqbench_compressor.service import CompressorServicer

REQUEST = pb.CheckRequest(model=pb.Model(plugin="digits", name="resnet"))


class Counting:
    """A worker whose answers are numbered."""

    def __init__(self) -> None:
        self.asked = 0

    def ask_if_free(self, key: str, request: WorkerRequest, on_reply: Any, idle: Any) -> WorkerReply:
        self.asked += 1
        return WorkerReply(check=pb.CheckResponse(classes=self.asked))


def test_a_check_is_kept_for_a_service_that_may_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Counting()

    def classes(request: pb.CheckRequest, allow_code: bool = False, in_process: bool = False) -> int:
        service: Any = CompressorServicer(tmp_path, None, allow_code, in_process)
        monkeypatch.setattr(service, "_work", worker)
        return int(service.Check(request, None).classes)

    assert [classes(REQUEST), classes(REQUEST)] == [1, 1], "a restarted service knows it"
    assert classes(pb.CheckRequest(model=REQUEST.model, steps=[pb.Step(kind="quantize", plugin="fp16")])) == 2
    assert classes(REQUEST, allow_code=True) == 3, "own code, which only this one may run"
    assert [classes(REQUEST, in_process=True) for _ in range(2)] == [4, 5], "a live object has a name, not a content"
