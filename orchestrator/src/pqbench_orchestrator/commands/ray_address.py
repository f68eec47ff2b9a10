"""Whether a Ray cluster answers at an address, and demands the certificates that this machine has or lacks.

Ray itself tries for minutes where nothing answers, or where one side speaks TLS and the other does not.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from pqbench_wire.errors import InvalidInput, Unavailable, first_line

LOCAL_RAY = "local-ray"  # in place of an address: a cluster of this machine alone
ADDRESSES = {"--on": f"write ray://HOST:PORT, HOST:PORT or {LOCAL_RAY}", "--join": "write HOST:PORT of the head"}
CONNECT_SECONDS = 10.0
# Ray's environment variables.
USE_TLS, AUTHORITY, CERTIFICATE, KEY = "RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"


def require_answer(option: str, address: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise Unavailable where no cluster answers, or by TLS where this machine has none, and the other way round.

    Raises InvalidInput for what is no address, and for certificates that are missing or that the other side refuses.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidInput(f"{option} {address}: {ADDRESSES[option]}")
    host, with_tls = host.strip("[]"), environment.get(USE_TLS) == "1"
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
            speaks_tls = _speaks_tls(connection)
        if with_tls and speaks_tls:
            with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
                _shake_hands(connection, host, environment)
    except ssl.SSLError as error:
        raise InvalidInput(f"{option} {address}: the certificates do not fit: {first_line(error)}") from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise no_cluster(option, address, error) from error
    if speaks_tls and not with_tls:
        raise Unavailable(
            f"{option} {address}: the cluster demands certificates: "
            f"set {USE_TLS}=1, {AUTHORITY}, {CERTIFICATE} and {KEY}"
        )
    if with_tls and not speaks_tls:
        raise Unavailable(f"{option} {address}: {USE_TLS} is set, but no Ray cluster with TLS answers there")


def no_cluster(option: str, address: str, error: Exception) -> Unavailable:
    """The error for a cluster that does not answer."""
    why = f"{option} {address}: no Ray cluster answers: {first_line(error)}"
    return Unavailable(f"{why}; `ray start --head` starts one, --on {LOCAL_RAY} needs none")


def _speaks_tls(connection: socket.socket) -> bool:
    """Whether the other side answers to TLS, whatever certificate it shows or demands."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connection).close()
    except OSError:  # of TLS, a connection that ends, or no answer in time
        return False
    return True


def _shake_hands(connection: socket.socket, host: str, environment: Mapping[str, str]) -> None:
    """Connect with this machine's certificate; the first byte comes when the other side has accepted it."""
    files = {name: environment.get(name, "") for name in (AUTHORITY, CERTIFICATE, KEY)}
    if missing := [f"{name} ({file or 'not set'})" for name, file in files.items() if not Path(file).is_file()]:
        raise InvalidInput(f"{USE_TLS} is set, but there is no file of {', '.join(missing)}")
    context = ssl.create_default_context(cafile=files[AUTHORITY])
    context.load_cert_chain(files[CERTIFICATE], files[KEY])
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(connection, server_hostname=host) as encrypted:
        try:
            is_accepted = bool(encrypted.recv(1))
        except ConnectionError:
            is_accepted = False
    if not is_accepted:
        raise ssl.SSLError("the other side refuses this machine's")
