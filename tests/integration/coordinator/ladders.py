"""Ladders for the tests: small files, and no packages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tiermesh import ids
from tiermesh.documents.variant import Artifact, Bundle, Variant


class FakeLadders:
    """Ladders of small files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_model = {}
        self.table = []
        self.add("ocr-detect", "v3")
        self.add("ocr-detect", "v4")

    def artifact(self, content: bytes) -> Artifact:
        path = self.folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return Artifact(digest=ids.digest_bytes(content), size_bytes=len(content))

    def add(self, model, name, content=None, runtime="onnx"):
        content = content if content is not None else f"{model}/{name}".encode() * 100
        bundle = Bundle(artifact=self.artifact(b"code of " + model.encode()), entry="stage:Stage")
        variant = Variant(
            model=model,
            name=name,
            runtime=runtime,
            precision="fp32",
            model_file="model.onnx",
            files={"model.onnx": self.artifact(content)},
            bundle=bundle,
        )
        self.by_model.setdefault(model, []).append(variant)
        return variant

    @property
    def models(self):
        return sorted(self.by_model)

    def reload(self):
        """They are as they were made."""

    def variants(self, model):
        return self.by_model[model]

    def path_of(self, digest):
        return self.folder / digest.removeprefix("sha256:")

    def accuracy(self, models, dataset, metric):
        return self.table
