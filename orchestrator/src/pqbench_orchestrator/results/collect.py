"""Collects the results of a plan's cells from the ledger's records and the blobs that these name."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message

from pqbench.common.v1.common_pb2 import Form
from pqbench.compressor.v1.compressor_pb2 import CompressResult
from pqbench.runtime.v1.runtime_pb2 import BuildEngineResult, MeasureResult
from pqbench_orchestrator.config.recipes import KINDS, WITHOUT_METHOD, Recipe, Step
from pqbench_orchestrator.planning.plan import DIAGNOSTICS, Cell, Plan
from pqbench_orchestrator.results import scores
from pqbench_orchestrator.results.cell import (
    OFF,
    OK,
    Breakdown,
    Causes,
    CellResult,
    Comparison,
    Engine,
    Fidelity,
    Timing,
    Variant,
)
from pqbench_orchestrator.results.timing import MB, MS, block_medians, timing_of, unpaired
from pqbench_orchestrator.results.why import explain
from pqbench_orchestrator.statistics import spread_percent
from pqbench_orchestrator.store.ledger import Ledger, StepRecord, StepResult
from pqbench_orchestrator.store.samples import Measured
from pqbench_wire.blobs import BlobStore
from pqbench_wire.shared import fidelity

AS_IT_IS = "loads as it is"
WORST_FIRST = ("failed", "unavailable", "refused")
M = TypeVar("M", bound=Message)


def collect(plan: Plan, ledger: Ledger, store: BlobStore) -> list[CellResult]:
    """The result of every cell, in the plan's order."""
    return _with_sessions([_Records(cell, ledger, store).result() for cell in plan.cells])


def samples_of(plan: Plan, ledger: Ledger, store: BlobStore) -> Iterator[Measured]:
    """The samples of every measurement of every cell, replicates included."""
    for cell in plan.cells:
        for build, record in enumerate(_Records(cell, ledger, store).measurements()):
            if record is not None:
                arrays = store.archive(_message(record.result, MeasureResult).samples)
                yield Measured(cell=cell.key, build=build, arrays=arrays)


@dataclasses.dataclass(frozen=True)
class _Records:
    """The records of one cell's steps, and the cell's result from them."""

    cell: Cell
    ledger: Ledger
    store: BlobStore
    read: dict[str, StepRecord] = dataclasses.field(default_factory=dict)  # by key: reading costs a digest

    def result(self) -> CellResult:
        cell = self.cell
        prune = [step for step in cell.recipe.steps if step.kind == "prune"]
        quantize = [step for step in cell.recipe.steps if step.kind == "quantize"]
        outcome, reason = self._outcome()
        variant, unpruned = self._result("variant"), self._result("unpruned")
        build, score = self._result("build"), self._result("score")
        found = CellResult(
            key=cell.key,
            model=cell.model,
            dataset=cell.dataset,
            recipe=cell.recipe.label,
            target=cell.target.name,
            backend=cell.target.backend,
            batch_size=cell.batch_size,
            concurrency=cell.concurrency,
            repeat=cell.repeat,
            scenario=cell.scenario,
            pruner=" + ".join(step.method.rpartition(":")[2] for step in prune) or OFF,
            quantizer=" + ".join(step.method.rpartition(":")[2] for step in quantize) or OFF,
            technique=technique_of(cell.recipe),
            amount=next((step.config["amount"] for step in prune if "amount" in step.config), OFF),
            is_baseline=not cell.recipe.steps,
            outcome=outcome,
            reason=reason,
            precision=cell.precision or None,
            form=cell.form or None,
            original_mb=_state_dict_mb(unpruned) if variant and unpruned else None,
            compressed_mb=_engine_mb(build) if quantize else _state_dict_mb(variant) or None,
            preparation_s=self._preparation() if variant else None,
            variant=self._variant(variant) if variant else None,
            engine=_engine(build, self._result("measure")) if build else None,
            fidelity=self._fidelity(),
            accuracy=scores.accuracy_of(score, self.store, not cell.recipe.steps) if score else None,
            timing=self._timing(),
        )
        return self._with_causes(self._with_parts(found, score))

    def measurements(self) -> list[StepRecord | None]:
        """The records of measuring the engine, then its replicates; None for one that is not done."""
        roles = [role for role in self.cell.steps if role == "measure" or role.startswith("measure ")]
        return [record if record is not None and record.done else None for record in map(self._record, roles)]

    def _record(self, role: str) -> StepRecord | None:
        if not self.read:
            self.read.update(self.ledger.newest(list(self.cell.steps.values())))
        return self.read.get(self.cell.steps.get(role, ""))

    def _result(self, role: str) -> StepResult | None:
        """The result of the step with a role; None where the cell has no such step, or it is not done."""
        record = self._record(role)
        return record.result if record is not None and record.done else None

    def _outcome(self) -> tuple[str, str]:
        if not self.cell.steps:
            return self.cell.outcome, self.cell.reason
        records = [self._record(role) for role in self.cell.steps if role not in DIAGNOSTICS]
        unfinished = [record for record in records if record is not None and not record.done]
        for outcome in WORST_FIRST:
            if reasons := [record.reason for record in unfinished if record.outcome == outcome]:
                return outcome, reasons[0]
        if any(record is None or not record.done for record in records):
            if self.cell.outcome:
                return self.cell.outcome, "interrupted before its engine was built"
            return "unavailable", "the run was interrupted before this cell; --continue finishes it"
        return self.cell.outcome or OK, self.cell.reason

    def _variant(self, variant: StepResult) -> Variant:
        result = _message(variant, CompressResult)
        statistics = result.statistics
        sizes = [one.blob.size for one in result.artifacts if Form.Name(one.form) == f"FORM_{self.cell.form}"]
        return Variant(
            parameters=statistics.parameters,
            nonzeros=statistics.nonzeros,
            sparsity_percent=100 * (1 - statistics.nonzeros / statistics.parameters) if statistics.parameters else None,
            macs=statistics.macs if statistics.HasField("macs") else None,
            state_dict_bytes=statistics.state_dict_bytes or None,
            artifact_bytes=sizes[-1] if sizes else None,
            export_s=dict(result.stage_seconds).get("export"),
        )

    def _preparation(self) -> float:
        """Seconds of pruning, recalibrating, fine-tuning and quantizing with calibration, over the recipe's steps."""
        records = [self.ledger.step(key) for key in self.cell.preparation]
        stages = [r.result.get("stageSeconds", {}) for r in records if r is not None and r.result is not None]
        return sum(float(seconds.get(kind, 0)) for seconds in stages for kind in KINDS)

    def _fidelity(self) -> Fidelity:
        """How close the engine's outputs are to the model's own, whether the artifact works, and warnings on both."""
        cell, warnings, decibels, verified = self.cell, [], None, None
        found, baseline = self._result("fidelity"), self._record("baseline fidelity")
        if found is not None:
            decibels = float(found["sqnr_db"])
            if cell.recipe.steps and decibels < (least := self._usual_fidelity()):
                warnings.append(
                    f"outputs have a fidelity of {decibels:.1f} dB, below the {least:.0f} dB usual for {cell.precision}"
                )
        if cell.recipe.steps and baseline is not None and baseline.outcome in (OK, "failed"):
            verified = baseline.outcome == OK
            if not verified:
                warnings.append(f"the baseline that it is compared with was not verified: {baseline.reason}")
        artifact, works = self._artifact()
        if artifact not in (None, AS_IT_IS):
            warnings.append(f"artifact: {artifact}")
        return Fidelity(
            sqnr_db=decibels,
            is_baseline_verified=verified,
            artifact=artifact,
            artifact_works=works,
            warnings="; ".join(warnings) or None,
        )

    def _usual_fidelity(self) -> float:
        """The least fidelity in dB that is usual for the precision that the recipe asks for.

        For FP32 it is that of the precisions in which the engine's layers execute, because they may execute in TF32.
        """
        build = self._result("build")
        if self.cell.precision == "FP32" and build is not None:
            return fidelity.least_of_engine(build.get("executed", {}))
        return fidelity.LEAST_ASKED.get(self.cell.precision, fidelity.LEAST_ANY)

    def _artifact(self) -> tuple[str | None, bool | None]:
        """What loading the artifact with the runtime's defaults gave, in words, and whether it works in any tried way.

        None for what is not known.
        """
        record = self._record("artifact")
        if record is None or (record.done and not (record.result or {}).get("trials")):
            return None, None
        if not record.done or record.result is None:
            return f"could not be tried: {_reason(record)}", None
        first, *others = record.result["trials"]
        if not first.get("problem"):
            return AS_IT_IS, True
        right = next((one["way"] for one in others if not one.get("problem")), None)
        needed = f"it needs {right}" if right else "nothing that was tried helps"
        return f"with {self.cell.target.backend}'s defaults {first['problem']}; {needed}", right is not None

    def _timing(self) -> Timing | None:
        measured = self._result("measure")
        if measured is None:
            return None
        result = _message(measured, MeasureResult)
        arrays = self.store.archive(result.samples)
        timing = timing_of(result, arrays, self.cell.batch_size, self.cell.scenario)
        return dataclasses.replace(
            timing, comparison=self._unpaired(arrays) or timing.comparison, **self._variance(timing, arrays)
        )

    def _unpaired(self, arrays: dict[str, np.ndarray]) -> Comparison | None:
        """The comparison with a separate measurement of the baseline; None where the plan has none."""
        measured = self._result("baseline measure")
        if measured is None:
            return None
        baseline = _message(measured, MeasureResult)
        return unpaired(baseline, self.store.archive(baseline.samples), arrays)

    def _variance(self, timing: Timing, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """The spread of blocks' medians within measurements and, with replicates, of builds' medians, in percent."""
        replicates = [record.result for record in self.measurements()[1:] if record is not None]
        results = [_message(result, MeasureResult) for result in replicates]
        blocks = [block_medians(arrays), *(block_medians(self.store.archive(one.samples)) for one in results)]
        within = {"within_run_sd_percent": spread_percent(blocks)}
        if not results:
            return within
        medians = [timing.median_ms / MS, *(one.timings[0].median for one in results)]
        return within | {"between_build_sd_percent": spread_percent([medians]), "builds": len(medians)}

    def _with_parts(self, found: CellResult, score: StepResult | None) -> CellResult:
        """Add the accuracy on the images that recipes are chosen on, and on those for reporting."""
        held_out, inputs = self._result("held-out score"), self._result("inputs")
        selection = report = None
        if self.cell.selection == "half" and score is not None and inputs is not None:
            predict = self._result("predict") or {}
            selection, report = scores.halves_of(score, inputs, predict, self.store, self.cell.seed)
        part = scores.held_out_of(held_out, self.store) if held_out else None
        return dataclasses.replace(found, held_out=part, selection=selection, report=report)

    def _with_causes(self, found: CellResult) -> CellResult:
        """Add why the cell is not faster, where it was profiled."""
        profile = self._record("profile")
        if profile is None:
            return found
        if not profile.done:
            return dataclasses.replace(found, causes=Causes(text=f"Its layers could not be timed: {_reason(profile)}"))
        if not found.is_ok:
            return found
        results = {role: result for role in self.cell.steps if (result := self._result(role))}
        why = explain(found, results)
        breakdown = Breakdown(
            by_macs=why.by_macs,
            by_bytes=why.by_bytes,
            converting_percent=None if why.converting is None else 100 * why.converting,
            outside_percent=None if why.outside is None else 100 * why.outside,
            fallback_layers=len(why.fell_back),
            bound_by=", ".join(why.flags) or None,
        )
        return dataclasses.replace(found, causes=Causes(breakdown=breakdown, text=why.text))


def technique_of(recipe: Recipe) -> str:
    """The steps of a recipe without their amounts, as "removal(criterion=taylor) + finetune(epochs=2)"."""
    return " + ".join(_step_without_amount(step) for step in recipe.steps) or OFF


def _step_without_amount(step: Step) -> str:
    name = step.kind if step.kind in WITHOUT_METHOD else step.method.rpartition(":")[2]
    chosen = ", ".join(f"{key}={_in_short(value)}" for key, value in sorted(step.config.items()) if key != "amount")
    return f"{name}({chosen})" if chosen else name


def _in_short(value: Any) -> Any:
    """A mapping, such as each layer's latency, without what is in it."""
    return "{…}" if isinstance(value, dict) and value else value


def _with_sessions(table: Sequence[CellResult]) -> list[CellResult]:
    """Add to each cell with repeats the median over them, which the thesis reports, and how much sessions differ."""
    sessions: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for cell in table:
        if cell.median_ms is not None:
            sessions[_session(cell)].append(cell.median_ms)
    return [_with_session(cell, sessions[_session(cell)]) for cell in table]


def _session(cell: CellResult) -> tuple[Any, ...]:
    return (cell.model, cell.dataset, cell.recipe, cell.target, cell.batch_size, cell.concurrency)


def _with_session(cell: CellResult, medians: Sequence[float]) -> CellResult:
    if cell.timing is None or len(medians) < 2:
        return cell
    timing = dataclasses.replace(
        cell.timing,
        median_of_repeats_ms=float(np.median(medians)),
        between_session_sd_percent=spread_percent([list(medians)]),
    )
    return dataclasses.replace(cell, timing=timing)


def _engine(build: StepResult, measure: StepResult | None) -> Engine:
    """The engine, and the device that it was built on or, where it was built ahead of time, the one that ran it."""
    result = _message(build, BuildEngineResult)
    built_on = result.engine.built_on
    gpu = _message(measure, MeasureResult).environment["gpu"] if measure else ""
    ran_on = f"{gpu}; built for {built_on}" if gpu and gpu not in built_on else built_on
    return Engine(
        executed_precision=", ".join(f"{name} {count}" for name, count in sorted(result.executed.items())),
        size_bytes=result.engine.blob.size,
        build_s=result.build_seconds,
        options=result.engine.options_json,
        device=ran_on or None,
        settings="; ".join(f"{name}={value}" for name, value in sorted(result.settings.items())),
        versions="; ".join(f"{name}={value}" for name, value in sorted(result.versions.items())),
    )


def _engine_mb(build: StepResult | None) -> float | None:
    return _message(build, BuildEngineResult).engine.blob.size / MB if build else None


def _state_dict_mb(compressed: StepResult | None) -> float | None:
    return _message(compressed, CompressResult).statistics.state_dict_bytes / MB if compressed else None


def _message(result: StepResult | None, kind: type[M]) -> M:
    return json_format.ParseDict(result or {}, kind())


def _reason(unfinished: StepRecord) -> str:
    """Why a step has no result; of one that only began, the ledger has no reason."""
    return unfinished.reason or "the run was interrupted"
