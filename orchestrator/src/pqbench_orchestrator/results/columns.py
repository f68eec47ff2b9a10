"""The columns of results: title, name, unit, type and meaning of each, in their order.

The CSV and the tables that people read have titles; the first eleven are those of "the thesis", the master thesis tool
PQ Bench, which pqbench succeeds. JSON and Parquet have names, with the unit at the end.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from dataclasses import dataclass
from typing import Any

from pqbench_orchestrator.results.cell import CellResult

# Ends of names -> unit, the longest first; a figure without one is a number, a text or a truth value.
UNITS = {
    "mj_per_image": "mJ/image", "images_per_s": "images/s", "rate_per_s": "1/s", "percent": "%",
    "points": "percentage points", "change_low": "percentage points", "change_high": "percentage points",
    "bytes": "bytes", "cores": "cores", "mhz": "MHz", "ms": "ms", "db": "dB", "mb": "MB", "s": "s", "w": "W",
}  # fmt: skip
# Beginnings of paths that names leave out, the longest first; and names that differ from their paths.
LEFT_OUT = ("timing.comparison.", "timing.", "variant.", "fidelity.", "causes.breakdown.", "causes.")
NAMES = {
    "key": "cell", "causes.text": "why", "causes.breakdown.by_macs": "speedup_by_macs",
    "causes.breakdown.by_bytes": "speedup_by_size",
}  # fmt: skip
RUN = {"run": "name of the run", "started": "when the run began, ISO 8601"}  # what a record has besides the columns
METRIC = "metric_"  # beginning of the names of metrics, which plug-ins give


def metric_name(title: str) -> str:
    """The name of a metric's column in JSON and Parquet: "SQNR (dB)" is "metric_sqnr_db"."""
    words = re.findall(r"[a-z0-9.]+", title.lower().replace("%", "percent"))
    return METRIC + "_".join(words)


@dataclass(frozen=True)
class Column:
    """A column: its title, where in a CellResult its figure is, and what it means.

    Apart from the thesis' columns, a row has it only where the part of the result that holds the figure is not None.
    """

    title: str
    path: str  # attributes of CellResult, as "timing.median_ms"
    meaning: str
    is_optional: bool = False  # left out of a row where the figure is not known

    @property
    def name(self) -> str:
        """The column's name in JSON and Parquet."""
        part = next((part for part in LEFT_OUT if self.path.startswith(part)), "")
        return NAMES.get(self.path) or self.path.removeprefix(part).replace(".", "_")

    @property
    def unit(self) -> str:
        """The unit of its figures; empty where there is none."""
        return next((unit for end, unit in UNITS.items() if self.name == end or self.name.endswith(f"_{end}")), "")

    @property
    def kind(self) -> type:
        """The Python type of its figures, apart from None; `amount` is a number, or "-"."""
        return _type_at(self.path)


def _part(title: str, path: str, images: str) -> tuple[Column, ...]:
    """The columns of a PartAccuracy, with titles that begin with `title`; `images` says which images it is of."""
    return (
        Column(f"{title} Accuracy", f"{path}.percent", f"accuracy on {images}"),
        Column(f"{title} Images", f"{path}.images", f"number of {images}"),
        Column(f"{title} Change", f"{path}.change.points", f"accuracy minus the baseline's on {images}"),
        Column(f"{title} Change Low", f"{path}.change.low", "lower end of its 95 % interval"),
        Column(f"{title} Change High", f"{path}.change.high", "upper end of its 95 % interval"),
    )


THESIS = (
    Column("Model", "model", "the model's name in the manifest"),
    Column("Pruner", "pruner", "methods of the recipe's pruning steps"),
    Column("Quantizer", "quantizer", "the recipe's quantizer"),
    Column("Dataset", "dataset", "the dataset's name in the manifest"),
    Column("Amount", "amount", "the recipe's pruning amount"),
    Column("Accuracy", "accuracy.top1_percent", "top-1 accuracy on the scored images"),
    Column(
        "Inference Time (ms)", "timing.median_ms", "median time of a call: one batch, host array in, host array out"
    ),
    Column("Original Size", "original_mb", "size of the uncompressed model's state dict"),
    Column("Compressed Size", "compressed_mb", "size of the engine where the recipe quantizes, else of the state dict"),
    Column("Batch Size", "batch_size", "images in a call"),
    Column("Prep Time (s)", "preparation_s", "time of pruning, recovery, calibration and quantization"),
)
BEFORE_METRICS = (
    Column("Outcome", "outcome", "ok, failed, unavailable or refused"),
    Column("Reason", "reason", "why the outcome is not ok"),
    Column("Recipe", "recipe", "the recipe's name"),
    Column("Baseline", "is_baseline", "whether this is the uncompressed model"),
    Column("Technique", "technique", "the recipe's methods without their amounts"),
    Column("Target", "target", "the target's name in the manifest"),
    Column("Backend", "backend", "the target's backend"),
    Column("Precision", "precision", "the precision that the recipe asks for"),
    Column("Form", "form", "the form of artifact that the target was given"),
    Column("Scenario", "scenario", "how calls were made: single-stream, multi-stream, offline or server"),
    Column("Concurrency", "concurrency", "engines that ran at the same time"),
    Column("Repeat", "repeat", "number of the repeat, from 0"),
    Column("Parameters", "variant.parameters", "parameters of the compressed model"),
    Column("Non-zeros", "variant.nonzeros", "parameters that are not zero"),
    Column("Sparsity (%)", "variant.sparsity_percent", "share of parameters that are zero"),
    Column("MACs", "variant.macs", "multiply-accumulates for one image"),
    Column("State Dict (bytes)", "variant.state_dict_bytes", "size of the compressed model's state dict"),
    Column("Artifact (bytes)", "variant.artifact_bytes", "size of the exported artifact", is_optional=True),
    Column("Export Time (s)", "variant.export_s", "time of the export"),
    Column(
        "Executed Precision",
        "engine.executed_precision",
        "compute layers of the built engine by the precision that they run in",
    ),
    Column("Engine (bytes)", "engine.size_bytes", "size of the engine"),
    Column("Build Time (s)", "engine.build_s", "time of the build"),
    Column("Options", "engine.options", "the target's options, as JSON"),
    Column("Device", "engine.device", "the device that ran the engine, with driver and versions"),
    Column("Settings", "engine.settings", "what the engine was built with"),
    Column("Versions", "engine.versions", "versions of the libraries that decide the result"),
    Column(
        "Fidelity (dB)",
        "fidelity.sqnr_db",
        "signal-to-quantization-noise ratio of the engine's outputs against the model's own",
        is_optional=True,
    ),
    Column(
        "Baseline Verified",
        "fidelity.is_baseline_verified",
        "whether the baseline's engine computes the model",
        is_optional=True,
    ),
    Column("Artifact", "fidelity.artifact", "what loading the artifact with the runtime's defaults gave"),
    Column("Artifact Works", "fidelity.artifact_works", "whether the artifact works by itself", is_optional=True),
    Column("Warnings", "fidelity.warnings", "what to know before shipping it"),
)
AFTER_METRICS = (
    Column("Scored Images", "accuracy.images", "images scored"),
    Column("Classes", "accuracy.classes", "classes that are scored"),
    Column("Stopped Early", "accuracy.stopped_early", "why scoring stopped early"),
    Column("Accuracy Low", "accuracy.low_percent", "lower end of the accuracy's 95 % interval", is_optional=True),
    Column("Accuracy High", "accuracy.high_percent", "upper end of the accuracy's 95 % interval", is_optional=True),
    Column(
        "Accuracy Change",
        "accuracy.change.points",
        "accuracy minus the baseline's on the same target, in percentage points",
    ),
    Column("Accuracy Change Low", "accuracy.change.low", "lower end of the change's 95 % interval"),
    Column("Accuracy Change High", "accuracy.change.high", "upper end of the change's 95 % interval"),
    Column("McNemar p", "accuracy.mcnemar_p", "p-value of McNemar's test against the baseline", is_optional=True),
    Column(
        "Indistinguishable",
        "accuracy.is_indistinguishable",
        "whether the accuracy is statistically indistinguishable from the baseline's",
        is_optional=True,
    ),
    *_part("Held-out", "held_out", "held-out training images"),
    *_part("Selection", "selection", "the images that recipes are chosen on"),
    *_part("Report", "report", "the images that reported accuracy is of"),
)
TIMES = (
    Column("Median Low (ms)", "timing.median_low_ms", "lower end of the median's 95 % interval"),
    Column("Median High (ms)", "timing.median_high_ms", "upper end of the median's 95 % interval"),
    Column("Mean (ms)", "timing.mean_ms", "mean time of a call"),
    Column("Std (ms)", "timing.std_ms", "standard deviation of the calls"),
    Column("P90 (ms)", "timing.p90_ms", "90th percentile"),
    Column("P95 (ms)", "timing.p95_ms", "95th percentile"),
    Column("P99 (ms)", "timing.p99_ms", "99th percentile"),
    Column("P99.9 (ms)", "timing.p999_ms", "99.9th percentile"),
    Column("Min (ms)", "timing.min_ms", "shortest call"),
    Column("Max (ms)", "timing.max_ms", "longest call"),
    Column("Calls", "timing.calls", "timed calls"),
    Column("Images/s", "timing.images_per_s", "images in a second at the median"),
    Column("Stable", "timing.is_stable", "whether the times are stable"),
    Column("Unstable Because", "timing.unstable_reason", "why they are not"),
    Column("Load Time (s)", "timing.load_s", "time to load the engine"),
    Column("First Call (s)", "timing.first_call_s", "time of the first call"),
    Column("Engine Memory (MB)", "timing.engine_memory_mb", "memory that loading the engine took"),
    Column("Device Memory (MB)", "timing.device_memory_mb", "the same on the device"),
    Column("Worker Peak Memory (MB)", "timing.worker_peak_mb", "peak memory of the worker process"),
    Column("Load Average", "timing.load_average", "the machine's load average before the measurement"),
    Column(
        "Foreign Load (cores)",
        "timing.foreign_load_cores",
        "cores that other processes used on average",
        is_optional=True,
    ),
    Column("Rate (1/s)", "timing.server.rate_per_s", "rate of calls in the server scenario"),
    Column("Rate Searched", "timing.server.is_searched", "whether it is the highest rate that keeps the bound"),
    Column("Slip P99 (ms)", "timing.server.slip_p99_ms", "99th percentile of the load generator's lag"),
    Column("Valid", "timing.server.is_valid", "whether the server run is valid"),
    Column("Invalid Because", "timing.server.invalid_reason", "why it is not"),
    Column("Energy (mJ/image)", "timing.energy.mj_per_image", "energy of one image beyond idling", is_optional=True),
    Column("Idle Power (W)", "timing.energy.idle_w", "idle power that was subtracted", is_optional=True),
    Column("Energy Source", "timing.energy.source", "the energy counter, or why there is none"),
    Column(
        "Compute (ms)", "timing.device.compute_ms", "median time of computing, by the device's clock", is_optional=True
    ),
    Column("H2D (ms)", "timing.device.h2d_ms", "median time of copying to the device", is_optional=True),
    Column("D2H (ms)", "timing.device.d2h_ms", "median time of copying back", is_optional=True),
    Column("GPU Power (W)", "timing.device.power_w", "mean power of the board", is_optional=True),
    Column("SM Clock Min (MHz)", "timing.device.clock_min_mhz", "lowest clock of the board", is_optional=True),
    Column("SM Clock Max (MHz)", "timing.device.clock_max_mhz", "highest clock of the board", is_optional=True),
    Column("Baseline Time (ms)", "timing.comparison.baseline_ms", "median of the baseline's calls in the same session"),
    Column("Paired", "timing.comparison.is_paired", "whether they were interleaved with the baseline's"),
    Column("Speedup", "timing.comparison.speedup", "the baseline's time divided by the cell's"),
    Column("Speedup Low", "timing.comparison.speedup_low", "lower end of the speed-up's 95 % interval"),
    Column("Speedup High", "timing.comparison.speedup_high", "upper end of the speed-up's 95 % interval"),
    Column("Against Baseline", "timing.comparison.verdict", "faster, slower or same"),
)
LAST = (
    Column("CUDA Graph", "timing.cuda_graph", "whether a CUDA graph was used, or why not"),
    Column("Within-Run SD (%)", "timing.within_run_sd_percent", "standard deviation between blocks"),
    Column(
        "Between-Build SD (%)",
        "timing.between_build_sd_percent",
        "standard deviation between builds of the engine",
        is_optional=True,
    ),
    Column("Builds", "timing.builds", "builds that were measured", is_optional=True),
    Column("Speedup by MACs", "causes.breakdown.by_macs", "speed-up if time were proportional to multiply-accumulates"),
    Column("Speedup by Bytes", "causes.breakdown.by_bytes", "speed-up if time were proportional to the engine's bytes"),
    Column(
        "Converting (%)",
        "causes.breakdown.converting_percent",
        "share of the layers' time in quantizing, casting and reordering",
    ),
    Column("Outside Layers (%)", "causes.breakdown.outside_percent", "share of a call in no layer"),
    Column(
        "Fallback Layers",
        "causes.breakdown.fallback_layers",
        "compute layers that run in a wider precision than requested",
    ),
    Column("Bound By", "causes.breakdown.bound_by", "any of host, memory, conversions, fallback"),
    Column("Why", "causes.text", "why the cell is not faster, in words"),
    Column("Cell", "key", "the cell's key"),
    Column("Median of Repeats (ms)", "timing.median_of_repeats_ms", "median over all repeats", is_optional=True),
    Column(
        "Between-Session SD (%)",
        "timing.between_session_sd_percent",
        "standard deviation between sessions",
        is_optional=True,
    ),
)
COLUMNS = (*THESIS, *BEFORE_METRICS, *AFTER_METRICS, *TIMES, *LAST)  # all but those of the metrics, which have TITLE


def _type_at(path: str) -> type:
    kind: Any = CellResult
    for name in path.split("."):
        kind = field_types(kind)[name]
    return typing.cast(type, kind)


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """Name -> type of each field of a dataclass, without None; of several types, the dataclass or else the first."""
    hints = typing.get_type_hints(kind)
    return {name: _without_none(hint) for name, hint in hints.items()}


def _without_none(hint: Any) -> Any:
    choices = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    return next((one for one in choices if dataclasses.is_dataclass(one)), choices[0])
