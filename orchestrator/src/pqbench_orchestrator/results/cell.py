"""A cell's result: what is known of one model, dataset, recipe, target, batch size and repeat. Units are in the names.

A part of it that was not reached, or does not apply, is None; so is a figure inside a part that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OK = "ok"
OFF = "-"  # where a technique is not used


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The compressed model, whatever it runs on."""

    parameters: int | None = None
    nonzeros: int | None = None
    sparsity_percent: float | None = None
    macs: int | None = None
    state_dict_bytes: int | None = None
    artifact_bytes: int | None = None
    export_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What was built for the target."""

    executed_precision: str | None = None  # layers by what they execute in: "FP32 2, INT8 10"
    size_bytes: int | None = None
    build_s: float | None = None
    options: str | None = None  # as JSON
    device: str | None = None
    settings: str | None = None
    versions: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near the engine comes to the model itself, and what somebody finds who is given the artifact alone."""

    sqnr_db: float | None = None
    is_baseline_verified: bool | None = None
    artifact: str | None = None
    artifact_works: bool | None = None
    warnings: str | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """How accuracy differs from the baseline's on the same target and images, in points, with its 95 % interval."""

    points: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What the whole split says. `metrics`: by title."""

    top1_percent: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    images: int | None = None
    classes: int | None = None
    stopped_early: str | None = None
    low_percent: float | None = None
    high_percent: float | None = None
    change: Change | None = None
    mcnemar_p: float | None = None
    is_indistinguishable: bool | None = None  # from the baseline's


@dataclass(frozen=True, kw_only=True)
class PartAccuracy:
    """Accuracy on some of the images: held-out ones, the half that judges, the half that reports."""

    percent: float
    images: int
    change: Change


@dataclass(frozen=True, kw_only=True)
class Server:
    """What the server scenario found."""

    rate_per_s: float
    is_searched: bool | None = None
    slip_p99_ms: float | None = None
    is_valid: bool | None = None
    invalid_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one image, idle power subtracted; where it was not measured, `source` is the reason."""

    mj_per_image: float | None = None
    idle_w: float | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """Medians by the device's own clock, and what NVML says of the board. Nothing is known where there is no GPU."""

    compute_ms: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    power_w: float | None = None
    clock_min_mhz: int | None = None
    clock_max_mhz: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Against the baseline on the same target."""

    baseline_ms: float | None = None
    is_paired: bool | None = None  # interleaved with the baseline in one session
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None  # None also where the interval has no end
    verdict: str | None = None  # faster, slower, same


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of a call, host array in, host array out."""

    median_ms: float
    median_low_ms: float | None = None
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

    by_macs: float | None = None  # speed-up if time followed the multiply-accumulates
    by_bytes: float | None = None  # speed-up if time followed the bytes of the engine
    converting_percent: float | None = None
    outside_percent: float | None = None
    fallback_layers: int | None = None
    bound_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Causes:
    """Why the cell is not faster; without a breakdown where its layers could not be timed."""

    breakdown: Breakdown | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One row of results."""

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
    technique: str = OFF  # what the recipe does but for the amounts
    amount: float | str = OFF
    is_baseline: bool = False
    outcome: str
    reason: str = ""
    precision: str | None = None  # that the recipe asks for
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
    def is_ok(self) -> bool:
        """Whether everything that was asked of it is known."""
        return self.outcome == OK

    @property
    def top1_percent(self) -> float | None:
        """Accuracy on the whole split."""
        return self.accuracy.top1_percent if self.accuracy else None

    @property
    def median_ms(self) -> float | None:
        """The median time of a call."""
        return self.timing.median_ms if self.timing else None

    @property
    def comparison(self) -> Comparison | None:
        """Its times against the baseline's, where it was compared."""
        return self.timing.comparison if self.timing else None

    @property
    def speedup(self) -> float | None:
        """Over the baseline on the same target."""
        return self.comparison.speedup if self.comparison else None

    @property
    def is_paired(self) -> bool:
        """Whether it was measured interleaved with its baseline."""
        return bool(self.comparison and self.comparison.is_paired)

    @property
    def is_unstable(self) -> bool:
        """Whether its times did not settle."""
        return self.timing is not None and self.timing.is_stable is False

    @property
    def server(self) -> Server | None:
        """What the server scenario found."""
        return self.timing.server if self.timing else None

    @property
    def is_invalid(self) -> bool:
        """Whether its server run says nothing."""
        return self.server is not None and self.server.is_valid is False

    @property
    def engine_bytes(self) -> int | None:
        """The size of its engine."""
        return self.engine.size_bytes if self.engine else None


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A measurement made after a choice: its times, or why there are none."""

    timing: Timing | None = None
    error: str = ""
