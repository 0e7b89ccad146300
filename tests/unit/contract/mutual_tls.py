"""A kind of credentials with mutual TLS, for tests: it shows that such a kind needs nothing but its own class.

Certificates are made by `openssl`; each process has a folder with ``ca.pem``, ``cert.pem`` and ``key.pem``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest

from tiermesh.wire import Credentials, PeerIdentity, agent
from tiermesh.wire.credentials import ChannelSecurity


class MutualTls(Credentials, frozen=True, tag="mutual-tls-of-tests"):
    """Certificates in a folder, read again at each handshake of a server and for each new channel."""

    folder: str
    reaches_network: ClassVar[bool] = True

    def _file(self, name: str) -> bytes:
        return (Path(self.folder) / name).read_bytes()

    def _configuration(self) -> Any:
        pair = (self._file("key.pem"), self._file("cert.pem"))
        return grpc.ssl_server_certificate_configuration([pair], self._file("ca.pem"))

    def server_security(self) -> grpc.ServerCredentials | None:
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=True
        )

    def channel_security(self, expected: PeerIdentity) -> ChannelSecurity | None:
        made = grpc.ssl_channel_credentials(
            self._file("ca.pem"), self._file("key.pem"), self._file("cert.pem")
        )
        return ChannelSecurity(made, [("grpc.ssl_target_name_override", expected.server_name)])

    def revision(self) -> int:
        return (Path(self.folder) / "cert.pem").stat().st_mtime_ns


def _openssl(*arguments: object) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("certificates are made by openssl, which is not installed")
    subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._key, self.certificate = folder / "key.pem", folder / "cert.pem"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self._key, "-out", self.certificate, "-days", 2, "-subj", "/CN=mesh"),
        )

    def issue(self, device: str) -> MutualTls:
        """Make, or renew, the certificate of a device's agent."""
        folder = self.folder / device
        folder.mkdir(exist_ok=True)
        asked, names = folder / "asked.pem", folder / "names"
        role = PeerIdentity(agent(device).role).server_name
        names.write_text(f"subjectAltName=DNS:{agent(device).server_name},DNS:{role}\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", folder / "key.pem", "-out", asked, "-subj", f"/CN={device}"),
        )
        _openssl(
            *("x509", "-req", "-in", asked, "-days", 1, "-extfile", names, "-CAcreateserial"),
            *("-CA", self.certificate, "-CAkey", self._key, "-out", folder / "cert.pem"),
        )
        (folder / "ca.pem").write_bytes(self.certificate.read_bytes())
        return MutualTls(folder=str(folder))
