"""The plan: deduplicated, ordered, with every cell and every reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pqbench_orchestrator.config.manifest import Manifest
from pqbench_orchestrator.config.recipes import Recipe
from pqbench_orchestrator.config.shard import Shard
from pqbench_orchestrator.planning.facts import CompressorFacts, DatasetFacts, RecipeFacts, Survey, TargetFacts
from pqbench_orchestrator.planning.plan import Plan, plan, unsuitable
from pqbench_orchestrator.steps.build import Build
from pqbench_orchestrator.steps.predict import Predict
from pqbench_orchestrator.steps.prepare import Prepare

PRUNE = {"prune": {"method": "l1-global", "amount": 0.5}}
TUNE = {"finetune": {"epochs": 1}}
ROUTES = {"PRECISION_FP32": ("FORM_ONNX",), "PRECISION_FP16": ("FORM_ONNX",), "PRECISION_INT8": ("FORM_QDQ_UNSIGNED",)}
QUANTIZERS = {"int8-static": ("PRECISION_INT8", ("FORM_QDQ_SIGNED", "FORM_QDQ_UNSIGNED"), True),
              "fp16": ("PRECISION_FP16", ("FORM_ONNX", "FORM_PT2"), False)}  # fmt: skip


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "t",
        "models": [{"model": "digits/resnet"}],
        "datasets": [{"dataset": "digits"}],
        "recipes": [
            {"name": "baseline"},
            {"name": "pruned", "steps": [PRUNE, TUNE]},
            {"name": "pruned int8", "steps": [PRUNE, TUNE, {"quantize": "int8-static"}]},
            {"name": "pruned fp16", "steps": [PRUNE, TUNE, {"quantize": "fp16"}]},
        ],
        "targets": [{"name": "a", "backend": "onnxruntime"}, {"name": "b", "backend": "openvino"}],
        "batch_sizes": [1, 8],
    }
    return Manifest.model_validate(values | changes)


def facts_of(recipe: Recipe) -> RecipeFacts:
    precision, forms, calibrates = "PRECISION_FP32", ("FORM_ONNX", "FORM_PT2"), False
    if recipe.steps and recipe.steps[-1].kind == "quantize":
        precision, forms, calibrates = QUANTIZERS[recipe.steps[-1].method]
    return RecipeFacts(
        preprocessing={"height": 16, "width": 16, "channels": 1},
        trains=True,
        precision=precision,
        forms=forms,
        needs_training=tuple(s.kind == "finetune" or (s.kind == "quantize" and calibrates) for s in recipe.steps),
        needs_baseline=tuple(s.kind == "finetune" and s.config.get("distill", False) for s in recipe.steps),
    )


def data_facts(**fingerprints: str) -> DatasetFacts:
    return DatasetFacts(fingerprints=fingerprints)


def survey_of(m: Manifest, **changes: Any) -> Survey:
    beginnings = [Recipe(steps=r.steps[:n]) for r in m.all_recipes for n in range(len(r.steps) + 1)]
    made = Survey(
        models={model.label: {"plugin": "digits", "name": model.label} for model in m.models},
        recipes={(model.label, r.identity): facts_of(r) for model in m.models for r in [Recipe(), *beginnings]},
        targets={t.name: TargetFacts(routes=ROUTES, versions={t.backend: "1"}, device="cpu") for t in m.targets},
        datasets={d.label: data_facts(train=f"{d.label} train", test=f"{d.label} test") for d in m.datasets},
        compressors={"compressor": CompressorFacts(versions={"torch": "1"})},
    )
    return replace(made, **changes)


def planned(m: Manifest, facts: Survey | None = None, run: str = "run") -> Plan:
    return plan(m, facts or survey_of(m), run, {"numpy": "1"})


def keys(made: Plan, *kinds: str) -> set[str]:
    return {step.key for step in made.steps if step.kind in kinds}


def test_shared_prefixes_are_done_once() -> None:
    made = planned(manifest())
    labels = Counter(step.label for step in made.steps if step.kind == "compress")
    assert set(labels.values()) == {1}
    assert len([label for label in labels if "->" not in label]) == 3, "loaded, pruned and fine-tuned once each"
    assert len([label for label in labels if "->" in label]) == 4, "each variant exported once for both targets"


def test_one_accuracy_pass_serves_batch_sizes_and_repeats() -> None:
    made = planned(manifest(repeats=3))
    kinds = Counter(step.kind for step in made.steps)
    assert kinds == {
        "prepare": 4,
        "compress": 7,
        "build": 16,
        "verify": 16,
        "try": 8,
        "predict": 16,
        "score": 16,
        "measure": 48,
        "profile": 16,
    }
    assert len(made.cells) == 4 * 2 * 2 * 3


def measures(made: Plan) -> list[Any]:
    return [step for step in made.steps if step.kind == "measure"]


def test_repeats_are_sessions_that_alternate_between_targets() -> None:
    made = planned(manifest(repeats=3, recipes=[{"name": "baseline"}], batch_sizes=[1]))
    assert [step.place.removeprefix("target ") for step in measures(made)] == ["a", "b", "b", "a", "a", "b"]


def test_steps_that_equal_targets_share_come_before_what_needs_them() -> None:
    twins = [{"name": name, "backend": "onnxruntime"} for name in ("a", "b")]
    made = planned(
        manifest(targets=twins, recipes=[{"name": "p", "steps": [PRUNE], "targets": ["b"]}, {"name": "base"}])
    )
    done: set[str] = set()
    for step in made.steps:
        assert set(step.needs.values()) <= done, f"{step.kind} {step.label} on {step.place}"
        done.add(step.key)


def test_a_variant_is_paired_with_its_baseline_unless_asked_otherwise() -> None:
    variant = next(cell for cell in planned(manifest()).cells if cell.recipe.label == "pruned")
    paired = {step.key: step for step in planned(manifest()).steps}[variant.steps["measure"]]
    assert "baseline" in paired.needs and "baseline measure" not in variant.steps
    made = planned(manifest(measure={"paired": False}))
    alone = next(cell for cell in made.cells if cell.recipe.label == "pruned")
    steps = {step.key: step for step in made.steps}
    assert "baseline" not in steps[alone.steps["measure"]].needs
    assert steps[alone.steps["baseline measure"]].label.startswith("resnet: baseline")
    assert len(measures(made)) == len(made.cells), "the baseline is measured once, for its own cell and for the others"


def test_replicates_are_built_and_measured_each() -> None:
    made = planned(manifest(build_replicates=3, recipes=[{"name": "baseline"}], batch_sizes=[1]))
    cell = made.cells[0]
    built = {cell.steps[role] for role in ("build", "build 1", "build 2")}
    timed = {cell.steps[role] for role in ("measure", "measure 1", "measure 2")}
    assert len(built) == len(timed) == 3
    assert {step.spec.replicate for step in made.steps if step.key in built and isinstance(step.spec, Build)} == {
        0,
        1,
        2,
    }


def test_concurrency_is_an_axis_of_the_scenarios_that_have_it() -> None:
    made = planned(manifest(measure={"scenario": "offline"}, concurrency=[1, 4], batch_sizes=[1]))
    assert len(made.cells) == 4 * 2 * 2 and len({cell.key for cell in made.cells}) == len(made.cells)
    assert {step.spec.settings["concurrency"] for step in measures(made)} == {1, 4}
    assert {step.spec.settings["scenario"] for step in measures(made)} == {"SCENARIO_OFFLINE"}
    with pytest.raises(ValueError, match="single-stream has 1"):
        manifest(concurrency=[1, 4])
    with pytest.raises(ValueError, match="needs rate, or p99_seconds"):
        manifest(measure={"scenario": "server"})
    with pytest.raises(ValueError, match="need scenario: server, not offline"):
        manifest(measure={"scenario": "offline", "rate": 3})
    served = planned(manifest(measure={"scenario": "server", "p99_seconds": 0.01}))
    assert not [step for step in measures(served) if "baseline" in step.needs], "a rate is found for each alone"


def test_scoring_that_may_stop_early_waits_for_the_baseline() -> None:
    made = planned(manifest(early_stopping={"max_drop": 5}))
    predictions = [step for step in made.steps if step.kind == "predict"]
    stopping = [
        (step, step.spec.stop_early) for step in predictions if isinstance(step.spec, Predict) and step.spec.stop_early
    ]
    assert len(stopping) == 6 and len(predictions) == 16, "baselines, and held-out images, are scored in full"
    assert all(limits.max_drop == 5 and "baseline" in step.needs for step, limits in stopping)
    seen: set[str] = set()
    for step in made.steps:
        assert set(step.needs.values()) <= seen
        seen.add(step.key)


def test_every_need_comes_before_and_places_are_visited_once() -> None:
    made = planned(manifest())
    seen: set[str] = set()
    for step in made.steps:
        assert set(step.needs.values()) <= seen
        seen.add(step.key)
    places = [step.place for step in made.steps if step.place != "orchestrator"]
    assert [p for i, p in enumerate(places) if i == 0 or places[i - 1] != p] == ["compressor", "target a", "target b"]


def test_measurements_are_paired_with_the_baseline_and_bound_to_their_run() -> None:
    made, other = planned(manifest()), planned(manifest(), run="another")
    steps = {step.key: step for step in made.steps}
    for cell in made.cells:
        needs = steps[cell.steps["measure"]].needs
        assert ("baseline" in needs) == bool(cell.recipe.steps)
    assert not keys(made, "measure") & keys(other, "measure")
    assert keys(made, "compress", "build", "predict") == keys(other, "compress", "build", "predict")


def test_a_manifest_without_a_baseline_is_still_compared_with_one() -> None:
    m = manifest(recipes=[{"name": "pruned", "steps": [PRUNE]}])
    steps = {step.key: step for step in planned(m).steps}
    assert all("baseline" in step.needs for step in steps.values() if step.kind == "measure")


def test_names_decide_nothing() -> None:
    renamed = manifest(
        datasets=[{"dataset": "digits", "name": "other"}],
        targets=[{"name": "x", "backend": "onnxruntime"}, {"name": "y", "backend": "openvino"}],
    )
    facts = survey_of(renamed, datasets={"other": data_facts(train="digits train", test="digits test")})
    assert keys(planned(renamed, facts), "prepare", "build") == keys(planned(manifest()), "prepare", "build")


@pytest.mark.parametrize(
    ("change", "unchanged"),
    [
        ({"compressors": {"compressor": CompressorFacts(versions={"torch": "2"})}}, {"prepare"}),
        ({"datasets": {"digits": data_facts(train="new", test="digits test")}}, set()),
        (
            {"targets": {n: TargetFacts(routes=ROUTES, versions={"x": "2"}, device="cpu") for n in "ab"}},
            {"prepare", "compress"},
        ),
        (
            {"targets": {n: TargetFacts(routes=ROUTES, versions={n: "1"}, device="gpu") for n in "ab"}},
            {"prepare", "compress"},
        ),
    ],
)
def test_what_decides_a_result_changes_its_key(change: dict[str, Any], unchanged: set[str]) -> None:
    before, after = planned(manifest()), planned(manifest(), survey_of(manifest(), **change))
    for kind in ("prepare", "compress", "build", "predict", "measure"):
        same = keys(before, kind) == keys(after, kind)
        assert same == (kind in unchanged), kind


def test_the_seed_changes_what_is_random() -> None:
    before, after = planned(manifest()), planned(manifest(seed=1))
    assert not keys(before, "compress") & keys(after, "compress")


def test_reasons_are_known_before_any_work() -> None:
    m = manifest()
    fp32_only = TargetFacts(routes={"PRECISION_FP32": ("FORM_PT2",)}, device="cpu")
    gone = TargetFacts(unavailable="pip install openvino")
    made = planned(m, survey_of(m, targets={"a": fp32_only, "b": gone}))
    outcomes = Counter((c.target.name, c.outcome, c.reason) for c in made.cells)
    assert outcomes["b", "unavailable", "pip install openvino"] == 8
    assert outcomes["a", "refused", "onnxruntime has no route for INT8"] == 2
    assert outcomes["a", "refused", "onnxruntime has no route for FP16"] == 2
    assert outcomes["a", "", ""] == 4
    assert not [step for step in made.steps if step.place == "target b"]
    assert not [step for step in made.steps if "int8" in step.label], "nothing is compressed for cells that cannot run"


def test_a_form_that_nobody_makes_is_refused() -> None:
    m = manifest()
    typed = TargetFacts(routes=ROUTES | {"PRECISION_INT8": ("FORM_QDQ_TYPED",)}, device="gpu")
    made = planned(m, survey_of(m, targets={"a": typed, "b": typed}))
    reason = next(c.reason for c in made.cells if c.outcome == "refused")
    assert reason == "onnxruntime runs INT8 as QDQ_TYPED; this model and recipe give QDQ_SIGNED, QDQ_UNSIGNED"


def test_training_needs_a_training_split() -> None:
    m = manifest()
    made = planned(m, survey_of(m, datasets={"digits": data_facts(test="x")}))
    assert all("no training split" in c.reason for c in made.cells)


def test_distillation_needs_the_unpruned_checkpoint() -> None:
    m = manifest(recipes=[{"name": "d", "steps": [PRUNE, {"finetune": {"distill": True}}]}])
    steps = {s.key: s for s in planned(m).steps}
    tuned = next(s for s in steps.values() if s.kind == "compress" and s.label.endswith("finetune"))
    assert steps[tuned.needs["baseline"]].label == "resnet: baseline"


def test_choices_have_images_of_their_own() -> None:
    m = manifest()
    made = planned(m)
    steps = {step.key: step for step in made.steps}
    for cell in made.cells:
        held_out = steps[steps[cell.steps["held-out score"]].needs["inputs"]]
        assert isinstance(held_out.spec, Prepare)
        assert held_out.spec.split == "train" and held_out.spec.held_out == m.seed
    facts = survey_of(m, datasets={"digits": data_facts(test="digits test")})
    facts = replace(facts, recipes={k: replace(f, trains=False, needs_training=()) for k, f in facts.recipes.items()})
    without = planned(manifest(recipes=[{"name": "baseline"}]), facts)
    assert all("held-out score" not in cell.steps for cell in without.cells)


def test_labels_are_wanted_of_the_split_that_is_used() -> None:
    m = manifest()
    facts = survey_of(m)
    data = {"digits": replace(facts.datasets["digits"], unlabelled=("test",))}
    assert all(not cell.outcome for cell in planned(m, replace(facts, datasets=data)).cells)
    unlabelled, labelled = planned(m, replace(facts, datasets=data)), planned(m, facts)
    scores = [{cell.steps["score"] for cell in made.cells} for made in (unlabelled, labelled)]
    assert scores[0].isdisjoint(scores[1])
    data = {"digits": replace(facts.datasets["digits"], unlabelled=("train",))}
    reasons = {cell.reason for cell in planned(m, replace(facts, datasets=data)).cells}
    assert reasons == {"dataset digits has no labels, which this model or recipe needs"}


def test_another_target_changes_no_key() -> None:
    """A run is continued with one more target, or after one was away: what was done for the others stays done."""
    m = manifest()
    more = manifest(
        targets=[*({"name": t.name, "backend": t.backend} for t in m.targets), {"name": "c", "backend": "pytorch"}]
    )
    facts = survey_of(more)
    pt2 = TargetFacts(routes={"PRECISION_FP32": ("FORM_PT2",)}, versions={"pytorch": "1"}, device="cpu")
    facts = replace(facts, targets=facts.targets | {"c": pt2})
    before, after = planned(m), planned(more, facts)
    assert {step.key for step in before.steps} < {step.key for step in after.steps}


def test_what_the_model_cannot_do_holds_for_all_of_its_recipes() -> None:
    m = manifest()
    facts = survey_of(m)
    baseline = facts.recipes[m.models[0].label, Recipe().identity]
    refused = planned(
        m,
        replace(
            facts, recipes=facts.recipes | {(m.models[0].label, Recipe().identity): replace(baseline, refused="no")}
        ),
    )
    assert {(cell.outcome, cell.reason) for cell in refused.cells} == {("refused", "no")} and not refused.steps
    fixed = facts.recipes | {(m.models[0].label, Recipe().identity): replace(baseline, fixed_batch=8)}
    made = planned(m, replace(facts, recipes=fixed))
    assert {(cell.batch_size, cell.outcome) for cell in made.cells} == {(1, "refused"), (8, "")}
    few = facts.recipes | {(m.models[0].label, Recipe().identity): replace(baseline, classes=3)}
    data = replace(facts.datasets["digits"], labels=10)
    small = planned(m, replace(facts, recipes=few, datasets={"digits": data}))
    assert {cell.reason for cell in small.cells} == {"the model has 3 outputs; dataset digits needs 10"}


def test_weights_that_pqbench_did_not_train_are_judged_on_a_half() -> None:
    m = manifest()
    facts = survey_of(m)
    pretrained = {key: replace(found, trains=False) for key, found in facts.recipes.items()}
    made = planned(m, replace(facts, recipes=pretrained))
    assert {cell.selection for cell in made.cells} == {"half"}
    assert all("held-out score" not in cell.steps for cell in made.cells)
    assert {cell.selection for cell in planned(m).cells} == {"held-out"}
    assert {cell.selection for cell in planned(manifest(selection="whole")).cells} == {"whole"}


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_file_that_takes_another_type_than_pictures_needs_arrays_of_it(dtype: str) -> None:
    facts = RecipeFacts(preprocessing={"inputs": [{"name": "image", "dtype": dtype, "shape": ["3", "8", "8"]}]})
    pictures = DatasetFacts(fingerprints={"test": "x"})
    assert unsuitable(facts, 10, "digits", pictures) == (
        f"the model takes image {dtype} [3, 8, 8]; dataset digits has images"
    )
    arrays = {kind: replace(pictures, inputs={"image": f"{kind} [3, 8, 8]"}) for kind in ("float32", dtype)}
    assert unsuitable(facts, 10, "own", arrays[dtype]) == ""
    assert unsuitable(facts, 10, "own", arrays["float32"]).endswith("dataset own has image float32 [3, 8, 8]")


@pytest.mark.parametrize(
    ("outputs", "reason", "notes"),
    [(9, "the model has 9 outputs; dataset digits needs 10", 0), (10, "", 0), (1000, "", 1), (0, "", 0)],
)
def test_outputs_beyond_the_classes_are_told_and_missing_ones_refused(outputs: int, reason: str, notes: int) -> None:
    m = manifest()
    facts = survey_of(m)
    data = replace(facts.datasets["digits"], labels=10, class_names=tuple("0123456789"), scores_all=True)
    recipes = {key: replace(found, classes=outputs) for key, found in facts.recipes.items()}
    known = replace(facts, recipes=recipes, datasets={"digits": data})
    assert {cell.reason for cell in planned(m, known).cells} == {reason}
    assert known.notes == [
        "model resnet has 1000 outputs, dataset digits 10 classes and no map from classes to outputs: "
        "an image counts as correct if its label's output is the largest"
    ] * notes  # fmt: skip
    mapped = replace(known, datasets={"digits": replace(data, scores_all=False)})
    assert mapped.notes == []


def ahead(device: str, lacks: str) -> TargetFacts:
    """A target whose engines are built ahead of time."""
    return TargetFacts(routes=ROUTES, versions={"rtx": "1"}, device=device, lacks_device=lacks, built_for="8.9")


def test_cells_of_a_target_without_its_device_end_with_their_engine() -> None:
    m = manifest()
    facts = survey_of(m)
    without = replace(facts, targets=facts.targets | {"a": ahead("", "no CUDA device")})
    made = planned(m, without)
    cells = [cell for cell in made.cells if cell.target.name == "a"]
    assert {(cell.outcome, cell.reason) for cell in cells} == {("unavailable", "no CUDA device; built for 8.9")}
    assert {role for cell in cells for role in cell.steps} == {"unpruned", "variant", "build", "baseline build"}
    assert all(cell.outcome == "" for cell in made.cells if cell.target.name == "b"), "others are measured"
    here = planned(m, replace(facts, targets=facts.targets | {"a": ahead("GPU", "")}))
    built = {cell.key: cell.steps["build"] for cell in cells}
    assert built == {cell.key: cell.steps["build"] for cell in here.cells if cell.target.name == "a"}, (
        "a machine with the device reuses the engines"
    )


def test_a_plan_to_build_has_no_step_after_the_engines() -> None:
    m = manifest(recipes=[{"name": "pruned", "steps": [PRUNE, TUNE]}], build_replicates=3)
    made = plan(m, survey_of(m), "run", {"numpy": "1"}, build_only=True)
    assert {step.kind for step in made.steps} == {"prepare", "compress", "build"}
    assert {(cell.outcome, cell.reason) for cell in made.cells} == {("unavailable", "built, not measured")}
    assert keys(made, "build") == keys(planned(m), "build"), "all engines of a run, baselines and replicates too"


def test_what_a_runtime_cannot_build_is_refused_with_its_reason() -> None:
    m = manifest()
    facts = survey_of(m)
    refused = replace(facts.targets["a"], refused={"PRECISION_INT8": "too old for INT8"})
    made = planned(m, replace(facts, targets=facts.targets | {"a": refused}))
    found = {(c.target.name, c.recipe.label): (c.outcome, c.reason) for c in made.cells}
    assert found["a", "pruned int8"] == ("refused", "too old for INT8") and found["b", "pruned int8"] == ("", "")


def test_a_variant_whose_baseline_cannot_be_built_is_refused_where_it_would_run() -> None:
    m = manifest()
    facts = survey_of(m)

    def outcomes(target: TargetFacts) -> dict[str, tuple[str, str]]:
        old = replace(target, refused={"PRECISION_FP32": "no FP32 products"})
        made = planned(m, replace(facts, targets=facts.targets | {"a": old}))
        return {c.recipe.label: (c.outcome, c.reason) for c in made.cells if c.target.name == "a"}

    here = outcomes(facts.targets["a"])
    assert here["pruned int8"] == ("refused", "its baseline cannot be built: no FP32 products")
    elsewhere = outcomes(ahead("", "no CUDA device"))
    assert elsewhere["baseline"] == ("refused", "no FP32 products")
    assert elsewhere["pruned int8"] == ("unavailable", "no CUDA device; built for 8.9"), "its own engine is built"


def test_shards_have_each_cell_once_and_only_the_steps_that_theirs_need() -> None:
    m = manifest(models=[{"model": "digits/resnet"}, {"model": "digits/other"}])
    whole = plan(m, survey_of(m), "run", {})
    shards = [plan(m, survey_of(m), "run", {}, shard=Shard(index=i, count=3)) for i in (1, 2, 3)]
    assert sorted(cell.key for one in shards for cell in one.cells) == sorted(cell.key for cell in whole.cells)
    pairs = [{(cell.model, cell.target.name) for cell in one.cells} for one in shards]
    assert [len(one) for one in pairs] == [2, 1, 1] and len(set.union(*pairs)) == 4
    assert {step.key for one in shards for step in one.steps} == {step.key for step in whole.steps}
    for one, its in zip(shards, pairs, strict=True):
        built = {step.place for step in one.steps if step.kind == "build"}
        assert built == {f"target {target}" for _, target in its}
