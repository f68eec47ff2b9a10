"""Whether a Ray cluster answers at an address, and demands the certificates that this machine has or lacks.

Ray itself tries for minutes where nothing answers, or where one side speaks TLS and the other does not.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping

from pqbench_wire.errors import InvalidInput, Unavailable, first_line

LOCAL_RAY = "local-ray"  # in place of an address: a cluster of this machine alone
ADDRESSES = {"--on": f"write ray://HOST:PORT, HOST:PORT or {LOCAL_RAY}", "--join": "write HOST:PORT of the head"}
CONNECT_SECONDS = 10.0
# Ray's environment variables.
USE_TLS, AUTHORITY, CERTIFICATE, KEY = "RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"


def require_answer(option: str, address: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise Unavailable where no cluster answers at an address.

    Raises InvalidInput for what is no address, where only one of the cluster and this machine uses TLS, and for
    certificates that are missing or refused.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidInput(f"{option} {address}: {ADDRESSES[option]}")
    host, with_tls = host.strip("[]"), environment.get(USE_TLS, "").lower() in ("1", "true")
    context = _context(environment) if with_tls else None
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
            speaks_tls = _speaks_tls(connection)
        if context is not None and speaks_tls:
            with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
                is_accepted = _shake_hands(connection, host, context)
            if not is_accepted:
                raise InvalidInput(
                    f"{option} {address}: the cluster refuses the certificate {environment[CERTIFICATE]}"
                )
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{option} {address}: its certificate does not fit {AUTHORITY}: {first_line(error)}"
        ) from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise no_cluster(option, address, error) from error
    if speaks_tls and not with_tls:
        raise InvalidInput(
            f"{option} {address}: the cluster demands certificates: "
            f"set {USE_TLS}=1, {AUTHORITY}, {CERTIFICATE} and {KEY}"
        )
    if with_tls and not speaks_tls:
        raise InvalidInput(f"{option} {address}: {USE_TLS} is set, but no Ray cluster with TLS answers there")


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


def _context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """This machine's side of mutual TLS. Raises InvalidInput for files that are missing or cannot be used."""
    files = {name: environment.get(name, "") for name in (AUTHORITY, CERTIFICATE, KEY)}
    if missing := [f"{name} ({file or 'not set'})" for name, file in files.items() if not os.access(file, os.R_OK)]:
        raise InvalidInput(f"{USE_TLS} is set, but there is no file to read of {', '.join(missing)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(files[AUTHORITY])
        context.load_cert_chain(files[CERTIFICATE], files[KEY])
    except OSError as error:
        raise InvalidInput(f"{AUTHORITY}, {CERTIFICATE} and {KEY} do not fit together: {first_line(error)}") from error
    return context


def _shake_hands(connection: socket.socket, host: str, context: ssl.SSLContext) -> bool:
    """Whether the other side accepts this machine's certificate: it then sends a first byte."""
    with context.wrap_socket(connection, server_hostname=host) as encrypted:
        try:
            return bool(encrypted.recv(1))
        except (ConnectionError, ssl.SSLError):
            return False
