"""Services: started on first use, one at a time where they take turns, ended when done."""

from __future__ import annotations

import pytest

from pqbench_wire.errors import Timeout, Unavailable

from ..fakes import FakeLauncher, services_of


def test_a_service_is_started_on_first_use_and_ended_at_the_end() -> None:
    launcher = FakeLauncher()
    with services_of(target_a=launcher) as services:
        assert launcher.started == [] and not services.alive("target a")
        client = services.client("target a")
        assert services.client("target a") is client and len(launcher.started) == 1
        assert services.alive("target a")
    assert launcher.stops == 1 and launcher.started[0].closed


def test_services_that_take_turns_run_one_at_a_time() -> None:
    a, b, other = FakeLauncher(swapped=True), FakeLauncher(swapped=True), FakeLauncher()
    with services_of(target_a=a, target_b=b, compressor=other) as services:
        services.client("compressor")
        services.client("target a")
        services.client("target b")
        assert (a.stops, other.stops) == (1, 0), "only what takes turns gives way"
        services.client("target a")
        assert (len(a.started), b.stops) == (2, 1)


def test_what_did_not_start_is_not_tried_again_and_again() -> None:
    launcher = FakeLauncher(problem="no such image")
    with services_of(target_a=launcher) as services:
        for _ in range(2):
            with pytest.raises(Unavailable, match="no such image"):
                services.client("target a")
            launcher.problem = "asked twice"


def test_compressors_are_asked_in_their_order() -> None:
    names = {"compressor": FakeLauncher(), "target_a": FakeLauncher(), "compressor_gpu": FakeLauncher()}
    assert services_of(**names).compressors == ["compressor", "compressor gpu"]


@pytest.mark.parametrize("error", [Unavailable("gone"), Timeout("frozen")])
def test_a_runtime_that_does_not_unload_is_ended(error: Exception) -> None:
    def answer(method: str, request: object) -> object:
        raise error

    launcher, calm = FakeLauncher(answer=answer), FakeLauncher()
    with services_of(target_a=launcher, target_b=calm) as services:
        services.renew("target a")
        assert launcher.started == [], "what does not run has nothing to unload"
        services.client("target a")
        services.client("target b")
        services.renew("target a")
        services.renew("target b")
        assert launcher.stops == 1 and calm.stops == 0 and calm.started[0].calls[0][0] == "Unload"
