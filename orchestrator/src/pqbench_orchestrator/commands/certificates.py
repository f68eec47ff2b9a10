"""`pqbench certificates`: a certificate authority, and certificates of services and their clients for mutual TLS."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pqbench_wire.certificates import AUTHORITY, CLIENT, KEY, stem_of
from pqbench_wire.errors import InvalidInput

AUTHORITY_DAYS = 3650
LONGEST_SUBJECT, LONGEST_NAME = 64, 253  # letters of a certificate's subject, and of a further name


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(folder: Path, hosts: Sequence[str], days: int) -> list[Path]:
    """Write a certificate for each host, one for clients, and their authority; returns the certificates' files.

    A host that is reached at several names or addresses has them joined by commas; the first names its files. What is
    there already is renewed: the authority and all private keys stay, so that both sides of a connection can take their
    new certificate at any time. Raises InvalidInput for a host that is no name or address, and where files cannot be
    read or written.
    """
    names = {host: _names(host) for host in hosts}
    firsts = [host.partition(",")[0] for host in names]
    _reject_clashes(firsts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority = _authority(folder)
        written = [folder / f"{AUTHORITY}.pem"]
        for stem, alternatives in {CLIENT: None, **dict(zip(firsts, names.values(), strict=True))}.items():
            key = _key(folder / f"{stem_of(stem)}{KEY}.pem")
            issuer = authority.certificate.subject
            certificate = _signed(stem, key.public_key(), issuer, authority.key, days, alternatives)
            written.append(folder / f"{stem_of(stem)}.pem")
            _write(written[-1], certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise InvalidInput(f"{error.filename or folder}: {error.strerror}") from error
    return written


def _reject_clashes(hosts: Iterable[str]) -> None:
    """Raise InvalidInput for a host whose files would replace others: keys, or those of another host."""
    taken = {AUTHORITY, CLIENT}
    for host in hosts:
        stem = stem_of(host)
        if stem in taken or stem.endswith(KEY):
            raise InvalidInput(f"{host}: the name of its file, {stem}.pem, is taken by another file in that folder")
        taken.add(stem)


def _names(host: str) -> x509.SubjectAlternativeName:
    """The names of a host, joined by commas, as a certificate has them. Raises InvalidInput."""
    if len(host.partition(",")[0]) > LONGEST_SUBJECT:
        raise InvalidInput(
            f"{host!r}: the first name, which is the certificate's subject, has over {LONGEST_SUBJECT} letters"
        )
    return x509.SubjectAlternativeName([_name(one, host) for one in host.split(",")])


def _name(name: str, host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass  # no address, so a name
    letters = name.removeprefix("*.").replace("-", "").replace(".", "").replace("_", "")
    if not (letters.isascii() and letters.isalnum()) or len(name) > LONGEST_NAME:
        raise InvalidInput(f"{host!r} is no host: give names such as gpu-1.lab or addresses such as 10.0.0.7, no ports")
    return x509.DNSName(name)


def _authority(folder: Path) -> Pair:
    """The folder's authority, made where there is none. Raises InvalidInput where a file is missing or damaged."""
    file, key_file = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}{KEY}.pem"
    if file.exists() != key_file.exists():
        raise InvalidInput(f"{folder}: of {file.name} and {key_file.name} one is missing: restore it, or remove both")
    key = _key(key_file)
    if not file.exists():
        certificate = _signed("pqbench", key.public_key(), None, key, AUTHORITY_DAYS)
        _write(file, certificate.public_bytes(serialization.Encoding.PEM))
        return Pair(certificate=certificate, key=key)
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{file}: not a certificate in PEM format") from error
    return Pair(certificate=certificate, key=key)


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a file, made where there is none; only its owner can read the file."""
    if file.exists():
        try:
            found = serialization.load_pem_private_key(file.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{file}: not a private key in PEM format without a password") from error
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise InvalidInput(f"{file}: not a key that pqbench made")
        return found
    key = ec.generate_private_key(ec.SECP256R1())
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(file, key.private_bytes(*pem))
    return key


def _signed(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name | None,
    signing: ec.EllipticCurvePrivateKey,
    days: int,
    alternatives: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    """A certificate of `key`, signed by the issuer's private key; without an issuer, an authority's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    # Clients that check strictly, such as Python's own since 3.13, demand these.
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
    )
    builder = builder.add_extension(_usage(is_authority=issuer is None), critical=True)
    if issuer:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    if alternatives:
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signing, hashes.SHA256())


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(file: Path, data: bytes) -> None:
    """Write a file that only its owner can read; it appears whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(data)
    partial.replace(file)
