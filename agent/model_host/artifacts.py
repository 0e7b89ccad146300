"""A variant's files as they lie on a machine without an artifact store: read where they are, never written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from agent.rollout import bundles
from tiermesh import ids
from tiermesh.errors import TiermeshError


class ArtifactFolders:
    """Folders with files that are named by the hex digits of their SHA-256; bundles are unpacked into `scratch`."""

    def __init__(self, folders: Sequence[Path], scratch: Path) -> None:
        self._folders = folders
        self._scratch = scratch

    def path(self, digest: str) -> Path:
        """The file of that digest; TiermeshError where it is in none of the folders."""
        name = digest.removeprefix("sha256:") if ids.is_digest(digest) else ""
        for folder in self._folders:
            if name and (folder / name).is_file():
                return folder / name
        raise TiermeshError(f"the artifact {digest[:80]} is not here", digest=digest)

    def unpack(self, digest: str) -> Path:
        """The folder with a bundle's content, unpacked at the first call; see `Store.unpack` for the errors."""
        bundle = self.path(digest)
        folder = self._scratch / bundle.name
        if not folder.is_dir():
            bundles.unzip(bundle, folder, shutil.disk_usage(self._scratch).free)
        return folder
