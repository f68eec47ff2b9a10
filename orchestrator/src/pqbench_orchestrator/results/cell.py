"""The result of a cell: one model and dataset with one recipe on one target, at one load, in one repeat.

Units are in the names of fields. A part of the result that was not reached, or does not apply, is None; so is a figure
that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OK, UNAVAILABLE = "ok", "unavailable"
SHORT = 8  # characters of a key: enough to tell thousands of cells apart
OFF = "-"  # the value of `pruner`, `quantizer`, `technique` and `amount` where there is none


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The compressed model, before an engine is built of it."""

    parameters: int | None = None
    nonzeros: int | None = None
    sparsity_percent: float | None = None
    macs: int | None = None
    state_dict_bytes: int | None = None
    artifact_bytes: int | None = None
    export_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The engine that was built for the target."""

    executed_precision: str | None = None  # number of compute layers by executed precision: "FP32 2, INT8 10"
    size_bytes: int | None = None
    build_s: float | None = None
    options: str | None = None  # as JSON
    device: str | None = None
    settings: str | None = None
    versions: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close the engine's outputs are to the model's own, and whether the exported artifact works on its own."""

    sqnr_db: float | None = None  # signal-to-noise ratio of the engine's outputs
    is_baseline_verified: bool | None = None  # whether the baseline's engine computes the model
    artifact: str | None = None  # what loading the artifact with the runtime's defaults gave, in words
    artifact_works: bool | None = None  # with the defaults, or in another way that was tried
    warnings: str | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """Accuracy minus the baseline's on the same target and images, in percentage points, with its 95 % interval."""

    points: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy on the test split: on all its images, unless scoring stopped early. `metrics`: by title."""

    top1_percent: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    images: int | None = None
    classes: int | None = None
    stopped_early: str | None = None  # why
    low_percent: float | None = None  # 95 % interval of top1_percent
    high_percent: float | None = None
    change: Change | None = None
    mcnemar_p: float | None = None
    is_indistinguishable: bool | None = None  # from the baseline's


@dataclass(frozen=True, kw_only=True)
class PartAccuracy:
    """Accuracy on a part of the images: held-out ones, the half on which recipes are chosen, or the other half."""

    percent: float
    images: int
    change: Change


@dataclass(frozen=True, kw_only=True)
class Server:
    """The result of the server scenario."""

    rate_per_s: float  # calls a second
    is_searched: bool | None = None  # whether the highest rate that keeps the bound was searched; False: a given rate
    slip_p99_ms: float | None = None  # by how much idle instances began late: the load generator's fault
    is_valid: bool | None = None
    invalid_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one image, without idle power; `source` is the counter or, where nothing was measured, the reason."""

    mj_per_image: float | None = None
    idle_w: float | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """Medians of times by the device's own clock, and NVML's readings of the board; all None where there is no GPU."""

    compute_ms: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    power_w: float | None = None
    clock_min_mhz: int | None = None
    clock_max_mhz: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The latency compared with the baseline's on the same target."""

    baseline_ms: float | None = None
    is_paired: bool | None = None  # measured interleaved with the baseline in one session
    speedup: float | None = None
    speedup_low: float | None = None  # 95 % interval
    speedup_high: float | None = None  # None also where the interval has no upper end
    verdict: str | None = None  # faster, slower, same


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of a call, which is one batch: host array in, host array out."""

    median_ms: float
    median_low_ms: float | None = None  # 95 % interval of the median
    median_high_ms: float | None = None
    mean_ms: float | None = None
    std_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    calls: int | None = None
    images_per_s: float | None = None
    is_stable: bool | None = None
    unstable_reason: str | None = None
    load_s: float | None = None
    first_call_s: float | None = None
    engine_memory_mb: float | None = None
    device_memory_mb: float | None = None
    worker_peak_mb: float | None = None
    load_average: float | None = None
    foreign_load_cores: float | None = None
    server: Server | None = None
    energy: Energy | None = None
    device: Device = Device()
    comparison: Comparison | None = None
    cuda_graph: str | None = None
    within_run_sd_percent: float | None = None
    between_build_sd_percent: float | None = None
    builds: int | None = None
    median_of_repeats_ms: float | None = None
    between_session_sd_percent: float | None = None


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Where the time of a call goes; shares are None where the profiler does not give the layers' own times."""

    by_macs: float | None = None  # speed-up if time were proportional to the multiply-accumulates
    by_bytes: float | None = None  # speed-up if time were proportional to the bytes of the engine
    converting_percent: float | None = None  # share of the layers' time in quantizing, casting and reordering
    outside_percent: float | None = None  # share of a call's time that is in no layer
    fallback_layers: int | None = None  # compute layers that run wider than the recipe asks for
    bound_by: str | None = None  # any of host, memory, conversions, fallback


@dataclass(frozen=True, kw_only=True)
class Causes:
    """Why the cell is not faster, in words and figures; without a breakdown where its layers could not be timed."""

    breakdown: Breakdown | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One row of the results."""

    key: str
    model: str
    dataset: str
    recipe: str
    target: str
    backend: str = ""
    batch_size: int
    concurrency: int = 1
    repeat: int = 0
    scenario: str = "single-stream"
    pruner: str = OFF
    quantizer: str = OFF
    technique: str = OFF  # the recipe's steps without their amounts
    amount: float | str = OFF
    is_baseline: bool = False
    outcome: str
    reason: str = ""
    precision: str | None = None  # the one that the recipe asks for
    form: str | None = None
    original_mb: float | None = None
    compressed_mb: float | None = None
    preparation_s: float | None = None
    variant: Variant | None = None
    engine: Engine | None = None
    fidelity: Fidelity = Fidelity()
    accuracy: Accuracy | None = None
    held_out: PartAccuracy | None = None
    selection: PartAccuracy | None = None
    report: PartAccuracy | None = None
    timing: Timing | None = None
    causes: Causes | None = None

    @property
    def short_key(self) -> str:
        """The beginning of the key that tables show; commands take it in place of the whole."""
        return self.key[:SHORT]

    @property
    def is_ok(self) -> bool:
        """Whether all steps of the cell succeeded, apart from diagnostic ones (`planning.plan.DIAGNOSTICS`)."""
        return self.outcome == OK

    @property
    def is_built_only(self) -> bool:
        """Whether its engine was built and not measured: without its device, by `build`, or by an interrupted run."""
        return self.outcome == UNAVAILABLE and self.engine_bytes is not None

    @property
    def top1_percent(self) -> float | None:
        """Top-1 accuracy on the test split, or on what was scored of it."""
        return self.accuracy.top1_percent if self.accuracy else None

    @property
    def median_ms(self) -> float | None:
        """The median time of a call."""
        return self.timing.median_ms if self.timing else None

    @property
    def comparison(self) -> Comparison | None:
        """The comparison of the latency with the baseline's, where there is one."""
        return self.timing.comparison if self.timing else None

    @property
    def speedup(self) -> float | None:
        """The speed-up over the baseline on the same target."""
        return self.comparison.speedup if self.comparison else None

    @property
    def is_paired(self) -> bool:
        """Whether the cell was measured interleaved with its baseline."""
        return bool(self.comparison and self.comparison.is_paired)

    @property
    def is_unstable(self) -> bool:
        """Whether the cell was timed and its times are not stable."""
        return self.timing is not None and self.timing.is_stable is False

    @property
    def server(self) -> Server | None:
        """The result of the server scenario."""
        return self.timing.server if self.timing else None

    @property
    def is_invalid(self) -> bool:
        """Whether the cell's run in the server scenario is invalid."""
        return self.server is not None and self.server.is_valid is False

    @property
    def engine_bytes(self) -> int | None:
        """The size of the engine's file."""
        return self.engine.size_bytes if self.engine else None


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A measurement that was made after a cell was chosen: its times, or why there are none."""

    timing: Timing | None = None
    error: str = ""
