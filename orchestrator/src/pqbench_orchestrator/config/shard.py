"""A shard of an experiment, for one of several machines that share its work."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_wire.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The `index`-th of `count` shards, from 1.

    A shard has whole pairs of a model and a target, because a variant and its baseline are timed on one machine.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def pairs(self, manifest: Manifest) -> set[tuple[str, str]]:
        """The labels of its models and targets, every `count`-th pair. Raises InvalidInput where it would have none."""
        pairs = [(model.label, target.name) for model in manifest.models for target in manifest.targets]
        if self.index > len(pairs):
            raise InvalidInput(
                f"shard {self} has nothing to do: the manifest has {len(pairs)} pairs of a model and a target; "
                f"use at most {len(pairs)} shards"
            )
        return set(pairs[self.index - 1 :: self.count])


WHOLE = Shard(index=1, count=1)  # the experiment as a whole


def parse(text: str) -> Shard:
    """A shard as it is written, "3/16". Raises InvalidInput."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InvalidInput(f"a shard is written as 3/16, from 1/16 to 16/16, not {text!r}")
    return Shard(index=int(found[1]), count=int(found[2]))
