"""Digests of a bundle's files, and a signature of them, in the formats of sha256sum and minisign.

`sha256sum -c SHA256SUMS` and `minisign -V -p KEY.pub -m SHA256SUMS` check them without pqbench
(https://jedisct1.github.io/minisign).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import minisign

from pqbench_wire.errors import InvalidInput, first_line

DIGESTS = "SHA256SUMS"
SIGNATURE = f"{DIGESTS}.minisig"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found about a bundle."""

    files: int  # with the digest that is listed
    problems: list[str]  # a line each; empty: all is as it was exported
    is_signed: bool
    signed_as: str | None  # the trusted comment of a signature that was checked and is right


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of each file of a bundle into its file `DIGESTS`."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / DIGESTS).write_text("".join(lines), encoding="utf-8")


def read_key(file: Path, password: Callable[[], str]) -> minisign.SecretKey:
    """A secret key as `minisign -G` writes it; `password` is called where it is encrypted. Raises InvalidInput."""
    try:
        key = minisign.SecretKey.from_file(file)
        if key.is_encrypted():
            key.decrypt(password())
    except (OSError, minisign.Error, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InvalidInput(f"--sign {file}: {why}; `minisign -G` makes a pair of keys") from error
    return key


def sign(folder: Path, key: minisign.SecretKey, comment: str) -> None:
    """Sign a bundle's digests, and with them a comment of one line."""
    signature = key.sign((folder / DIGESTS).read_bytes(), trusted_comment=comment)
    (folder / SIGNATURE).write_bytes(bytes(signature))


def verify(folder: Path, key: str | None) -> Verified:
    """Compare a bundle's files with their digests and, with a public key, check who signed these.

    `key`: a file as `minisign -G` writes it, or its second line. Raises InvalidInput for a folder without digests, and
    for a key that is none.
    """
    public = None if key is None else _public_key(key)
    try:
        lines = (folder / DIGESTS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{folder} has no file {DIGESTS} that can be read: not a bundle of this version") from error
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    names = _names(folder)
    problems = [f"{name}: not listed in {DIGESTS}" for name in names if name not in listed]
    problems += [f"{name}: missing" for name in listed if name not in names]
    present = {name: digest for name, digest in listed.items() if name in names}
    changed = [name for name, digest in present.items() if _digest(folder / name) != digest]
    problems += [f"{name}: changed since it was exported" for name in changed]
    is_signed, signed_as = (folder / SIGNATURE).is_file(), None
    if public is not None:
        try:
            signed_as = _signed_as(folder, public)
        except (OSError, minisign.Error, ValueError) as error:
            why = "there is none" if not is_signed else first_line(error)
            problems.append(f"{SIGNATURE}: not a signature by this key: {why}")
    return Verified(
        files=len(present) - len(changed), problems=sorted(problems), is_signed=is_signed, signed_as=signed_as
    )


def _signed_as(folder: Path, key: minisign.PublicKey) -> str:
    signature = minisign.Signature.from_bytes((folder / SIGNATURE).read_bytes())
    key.verify((folder / DIGESTS).read_bytes(), signature)
    return signature.trusted_comment


def _public_key(given: str) -> minisign.PublicKey:
    file = Path(given)
    try:
        if file.is_file():
            return minisign.PublicKey.from_bytes(file.read_bytes())
        return minisign.PublicKey.from_base64(given)
    except (OSError, minisign.Error, ValueError) as error:
        raise InvalidInput(
            f"--key {given}: neither a file with a public key of minisign nor such a key: {first_line(error)}"
        ) from error


def _names(folder: Path) -> list[str]:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in files if name not in (DIGESTS, SIGNATURE))


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:  # a link that leads nowhere
        return ""
