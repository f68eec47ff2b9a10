"""How shards are written, and which pairs of a model and a target they have."""

from __future__ import annotations

import pytest

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.shard import WHOLE, Shard, parse
from pqbench_wire.errors import InvalidInput


def test_a_shard_is_written_as_one_of_all() -> None:
    assert parse("3/16") == Shard(index=3, count=16) and str(parse("1/1")) == "1/1" and parse("1/1") == WHOLE


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/4/2", "1.5/4", " 1/4"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="a shard is written as 3/16"):
        parse(text)


def test_a_shard_without_a_pair_is_refused() -> None:
    manifest = Manifest.model_validate(
        {
            "name": "m",
            "models": [{"model": "digits/resnet"}],
            "datasets": [{"dataset": "digits"}],
            "recipes": [{"name": "r"}],
            "targets": [{"name": n, "backend": "onnxruntime"} for n in "abc"],
        }
    )
    assert Shard(index=2, count=2).pairs(manifest) == {("resnet", "b")}
    assert WHOLE.pairs(manifest) == {("resnet", name) for name in "abc"}
    with pytest.raises(InvalidInput, match="shard 4/8 has nothing to do: the manifest has 3 pairs"):
        Shard(index=4, count=8).pairs(manifest)
