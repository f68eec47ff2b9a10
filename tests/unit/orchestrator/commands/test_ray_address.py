"""What is said of an address at which no cluster answers, or one with other certificates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from pqbench_orchestrator.commands.certificates import make
from pqbench_orchestrator.commands.ray_address import AUTHORITY, CERTIFICATE, KEY, USE_TLS, require_answer
from pqbench_wire.errors import InvalidInput, Unavailable
from tests.addresses import free_port

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two authorities."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("own", "other")}
    for folder in folders.values():
        make(folder, [HOST], 1)
    return folders


@pytest.fixture(scope="module")
def ports(certificates: dict[str, Path]) -> Iterator[dict[str, int]]:
    """Ports of a server with mutual TLS, and of one without, of the library that Ray uses."""
    own = certificates["own"]
    pair = ((own / f"{HOST}-key.pem").read_bytes(), (own / f"{HOST}.pem").read_bytes())
    mutual = grpc.ssl_server_credentials([pair], (own / "ca.pem").read_bytes(), require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(1))
    found = {"tls": server.add_secure_port(f"{HOST}:0", mutual), "plain": server.add_insecure_port(f"{HOST}:0")}
    server.start()
    yield found
    server.stop(None)


def environment(folder: Path) -> dict[str, str]:
    return {
        USE_TLS: "1", AUTHORITY: f"{folder}/ca.pem", CERTIFICATE: f"{folder}/{HOST}.pem",
        KEY: f"{folder}/{HOST}-key.pem",
    }  # fmt: skip


def test_what_fits_is_accepted(ports: dict[str, int], certificates: dict[str, Path]) -> None:
    require_answer("--on", f"ray://{HOST}:{ports['plain']}", {})
    require_answer("--on", f"{HOST}:{ports['tls']}", environment(certificates["own"]))
    require_answer("--on", f"{HOST}:{ports['tls']}", environment(certificates["own"]) | {USE_TLS: "True"})


def test_what_does_not_fit_is_one_line(ports: dict[str, int], certificates: dict[str, Path]) -> None:
    plain, tls = (f"{HOST}:{ports[name]}" for name in ("plain", "tls"))
    own, other = (environment(certificates[name]) for name in ("own", "other"))
    with pytest.raises(InvalidInput, match="demands certificates: set RAY_USE_TLS=1"):
        require_answer("--join", tls, {})
    with pytest.raises(InvalidInput, match="RAY_USE_TLS is set, but no Ray cluster with TLS answers"):
        require_answer("--on", plain, own)
    with pytest.raises(InvalidInput, match="its certificate does not fit RAY_TLS_CA_CERT: .*verify failed"):
        require_answer("--on", tls, other)
    with pytest.raises(InvalidInput, match=f"the cluster refuses the certificate {other[CERTIFICATE]}$"):
        require_answer("--on", tls, own | {KEY: other[KEY], CERTIFICATE: other[CERTIFICATE]})
    with pytest.raises(InvalidInput, match="RAY_TLS_SERVER_KEY do not fit together"):
        require_answer("--on", tls, own | {KEY: other[KEY]})
    with pytest.raises(InvalidInput, match=r"no file to read of RAY_TLS_SERVER_KEY \(not set\)"):
        require_answer("--on", tls, {name: value for name, value in own.items() if name != KEY})
    with pytest.raises(Unavailable, match="no Ray cluster answers"):
        require_answer("--on", f"{HOST}:{free_port()}", {})
    with pytest.raises(InvalidInput, match="write ray://HOST:PORT"):
        require_answer("--on", "nowhere", {})
