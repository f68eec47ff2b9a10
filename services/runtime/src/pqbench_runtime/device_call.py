"""The timed call on a GPU, the same for every backend: copy in, compute, copy out, wait; events between.

`latency` is host time around all of it; compute, H2D and D2H are the device's own times of the parts, as
trtexec splits them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pqbench_runtime.cuda import Event, Stream

WARM_UP = 2  # calls before a CUDA graph is captured: libraries initialise lazily


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What every backend on a GPU takes, with the same meaning and defaults in all of them."""

    transfers: Annotated[bool, Field(description="count the copies to and from the GPU in the latency")] = True
    spin: Annotated[bool, Field(description="wait for the GPU by spinning; false: sleep until it is done")] = True
    cuda_graph: Annotated[bool, Field(description="launch the engine as one captured CUDA graph")] = True
    tf32: Annotated[bool, Field(description="let FP32 products run in TF32, as every library does by default")] = True


class DeviceCall:
    """One batch through an engine on `stream`.

    `upload`, `compute` and `download` queue their part and return; `outputs` are the host arrays that
    `download` fills.
    """

    def __init__(
        self,
        stream: Stream,
        upload: Callable[[], None],
        compute: Callable[[], None],
        download: Callable[[], None],
        outputs: Sequence[np.ndarray],
        options: GpuOptions,
    ) -> None:
        self._stream, self._upload, self._compute, self._download = stream, upload, compute, download
        self._outputs, self._transfers = outputs, options.transfers
        self._events = [Event(options.spin) for _ in range(4)]
        if not self._transfers:
            upload()
            stream.synchronize()

    def __call__(self) -> Sequence[np.ndarray]:
        """Run it and wait. Without transfers the outputs are copied when first looked at."""
        begin, uploaded, computed, downloaded = self._events
        if not self._transfers:
            uploaded.record(self._stream)
            self._compute()
            computed.record(self._stream)
            computed.synchronize()
            return _OnDevice(self._fetch)
        begin.record(self._stream)
        self._upload()
        uploaded.record(self._stream)
        self._compute()
        computed.record(self._stream)
        self._download()
        downloaded.record(self._stream)
        downloaded.synchronize()
        return self._outputs

    def device_times(self) -> Mapping[str, float]:
        """Seconds of the last call's parts by the device's clock."""
        begin, uploaded, computed, downloaded = self._events
        times = {"compute": computed.since(uploaded)}
        if self._transfers:
            times |= {"h2d": uploaded.since(begin), "d2h": downloaded.since(computed)}
        return times

    def _fetch(self) -> Sequence[np.ndarray]:
        self._download()
        self._stream.synchronize()
        return self._outputs


class _OnDevice(Sequence[np.ndarray]):
    """Outputs that stay on the device until somebody looks."""

    def __init__(self, fetch: Callable[[], Sequence[np.ndarray]]) -> None:
        self._fetch = fetch
        self._fetched: Sequence[np.ndarray] | None = None

    def _arrays(self) -> Sequence[np.ndarray]:
        if self._fetched is None:
            self._fetched = self._fetch()
        return self._fetched

    def __getitem__(self, index: Any) -> Any:
        return self._arrays()[index]

    def __len__(self) -> int:
        return len(self._arrays())
