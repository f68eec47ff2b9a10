"""Checking recipes before any work."""

from __future__ import annotations

import pytest

from pqbench.common.v1.common_pb2 import Form, Precision
from pqbench.compressor.v1 import compressor_pb2 as pb
from pqbench_compressor.checks import Checker
from pqbench_wire.errors import InvalidInput

MODEL = pb.Model(plugin="digits", name="resnet", weights=pb.WEIGHTS_NONE)


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [(["quantize", "finetune"], "quantize must be the last step"), (["quantize", "quantize"], "must be the last")],
)
def test_an_impossible_recipe_is_refused(checker: Checker, kinds: list[str], reason: str) -> None:
    steps = [pb.Step(kind=kind, plugin="fp16" if kind == "quantize" else "") for kind in kinds]
    assert reason in checker.check(pb.CheckRequest(model=MODEL, steps=steps)).refused


def test_check_says_what_a_recipe_needs(checker: Checker) -> None:
    steps = [
        pb.Step(kind="finetune", config_json='{"distill": true}'),
        pb.Step(kind="quantize", plugin="int8-static"),
    ]
    answer = checker.check(pb.CheckRequest(model=MODEL, steps=steps))
    assert [(n.training_images, n.baseline) for n in answer.needs] == [(True, True), (True, False)]
    assert answer.precision == Precision.PRECISION_INT8
    assert Form.FORM_PT2 not in answer.forms


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (pb.Step(kind="prune", plugin="l1-globl"), "did you mean 'l1-global'"),
        (pb.Step(kind="prune", plugin="l1-global", config_json='{"amount": 1.5}'), "amount: .*less than 1"),
        (pb.Step(kind="finetune", config_json='{"epoch": 1}'), "finetune: unknown key 'epoch'; did you mean 'epochs'"),
        (pb.Step(kind="polish"), "unknown kind of step 'polish'"),
    ],
)
def test_a_wrong_step_is_one_clear_line(checker: Checker, step: pb.Step, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        checker.check(pb.CheckRequest(model=MODEL, steps=[step]))
