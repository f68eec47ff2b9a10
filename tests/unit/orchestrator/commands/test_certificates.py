"""Certificates for mutual TLS: what is made, what a renewal keeps, and mistakes."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from pqbench_orchestrator.commands.certificates import make
from pqbench_wire.errors import InvalidInput


def loaded(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_each_host_has_a_certificate_of_one_authority(tmp_path: Path) -> None:
    written = make(tmp_path / "c", ["gpu-1.lab", "10.0.0.7", "::1"], 30)
    assert [path.name for path in written] == ["ca.pem", "client.pem", "gpu-1.lab.pem", "10.0.0.7.pem", "--1.pem"]
    authority = loaded(written[0])
    for path in written[1:]:
        certificate = loaded(path)
        certificate.verify_directly_issued_by(authority)
        left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = loaded(written[2]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu-1.lab"]
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "c").iterdir()} == {0}, "only the owner reads them"
    assert not list((tmp_path / "c").glob("*.partial"))


def test_a_host_may_have_several_names(tmp_path: Path) -> None:
    written = make(tmp_path, ["head.lab,10.0.0.7", "b"], 30)
    assert [path.name for path in written] == ["ca.pem", "client.pem", "head.lab.pem", "b.pem"]
    names = loaded(written[2]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["head.lab"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


def test_only_the_first_name_must_be_short(tmp_path: Path) -> None:
    make(tmp_path, [f"pod,{'a' * 253}"], 30)
    for host, problem in (("x" * 65, "the first name, .* has over 64 letters"), (f"pod,{'a' * 254}", "is no host")):
        with pytest.raises(InvalidInput, match=problem):
            make(tmp_path, [host], 30)


def test_python_itself_accepts_them_when_it_checks_strictly(tmp_path: Path) -> None:
    make(tmp_path, ["a.lab"], 30)
    store = verification.Store([loaded(tmp_path / "ca.pem")])
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName("a.lab"))
    assert len(verifier.verify(loaded(tmp_path / "a.lab.pem"), [])) == 2


def test_a_renewal_keeps_the_authority_and_the_keys(tmp_path: Path) -> None:
    make(tmp_path, ["a"], 30)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make(tmp_path, ["a", "b"], 30)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    same = {name for name, data in before.items() if after[name] == data}
    assert same == {"ca.pem", "ca-key.pem", "client-key.pem", "a-key.pem"} and {"b.pem", "b-key.pem"} <= set(after)


@pytest.mark.parametrize("host", ["a b", "", "-", "a:1", "ca", "client", "x" * 65, "../a", "ä", "a,", "a,b c"])
def test_a_host_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidInput, match="no host|is taken|letters"):
        make(tmp_path / "c", ["good", host], 30)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "hosts", [["ca-key"], ["client-key"], ["a", "a-key"], ["*.lab", "any.lab"], ["::1", "--1"], ["b,c", "b"]]
)
def test_no_host_can_replace_the_file_of_another_or_a_key(tmp_path: Path, hosts: list[str]) -> None:
    make(tmp_path, ["a"], 30)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidInput, match="is taken by another file"):
        make(tmp_path, hosts, 30)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_damaged_files_are_named(tmp_path: Path) -> None:
    make(tmp_path, ["a"], 30)
    (tmp_path / "a-key.pem").write_text("x")
    with pytest.raises(InvalidInput, match="a-key.pem: not a private key"):
        make(tmp_path, ["a"], 30)
    (tmp_path / "ca-key.pem").unlink()
    with pytest.raises(InvalidInput, match=r"of ca.pem and ca-key.pem one is missing"):
        make(tmp_path, ["a"], 30)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file"):
        make(tmp_path / "file", ["a"], 30)
