"""The timed call on a GPU, the same for every backend: copy in, compute, copy out, wait, with events in between.

`latency` is host time around all of it. Compute, H2D (host to device) and D2H (device to host) are the device's own
times of the parts, split as trtexec does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pqbench_runtime.cuda import Event, Stream
from pqbench_wire.errors import Failed, first_line

WARM_UP = 2  # calls before a CUDA graph is captured, because libraries initialise lazily


Started = TypeVar("Started")


def as_graph(
    wanted: bool, captured: Callable[[], Started], plain: Callable[[], Started]
) -> tuple[Started, dict[str, str]]:
    """What `captured` gives or, if not wanted or if that fails, what `plain` gives; and the setting that says which."""
    if not wanted:
        return plain(), {"cuda_graph": "off"}
    try:
        return captured(), {"cuda_graph": "captured"}
    except (Failed, RuntimeError) as error:  # RuntimeError is PyTorch's
        reason = first_line(error)
    return plain(), {"cuda_graph": f"could not be captured: {reason}"}


class DeviceCall:
    """One batch through an engine on `stream`.

    `upload`, `compute` and `download` queue their part and return; `outputs` are the host arrays that `download` fills.
    Without `transfers`, only computing is timed: the input is copied once, and the outputs when first accessed.
    `spin`: wait for the GPU by spinning instead of sleeping.
    """

    def __init__(
        self,
        stream: Stream,
        upload: Callable[[], None],
        compute: Callable[[], None],
        download: Callable[[], None],
        outputs: Sequence[np.ndarray],
        transfers: bool,
        spin: bool,
    ) -> None:
        self._stream, self._upload, self._compute, self._download = stream, upload, compute, download
        self._outputs, self._transfers = outputs, transfers
        self._events = [Event(spin) for _ in range(4)]
        if not self._transfers:
            upload()
            stream.synchronize()

    def __call__(self) -> Sequence[np.ndarray]:
        """Queue the parts, wait for the GPU and return the outputs; without `transfers` their access copies them."""
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
        """Seconds of the last call's parts by the device's clock: compute and, with `transfers`, h2d and d2h."""
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
    """Outputs that stay on the device until they are first accessed."""

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
