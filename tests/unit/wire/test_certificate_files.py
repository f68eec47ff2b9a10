"""Waiting for the files of mutual TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench_wire import certificates
from pqbench_wire.errors import InvalidInput


def test_missing_files_are_waited_for_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(certificates, "WAIT_SECONDS", 0.5)
    with pytest.raises(InvalidInput, match="there is no .*ca.pem: `pqbench certificates"):
        certificates.files_of(tmp_path)
    assert capsys.readouterr().err == f"waiting up to 0 s for {tmp_path / 'ca.pem'}\n"
    for name in ("ca", "client", "client-key"):
        (tmp_path / f"{name}.pem").touch()
    assert certificates.files_of(tmp_path).key == tmp_path / "client-key.pem" and not capsys.readouterr().err
