"""A bundle and a variant, for specs of replicas whose models are never loaded."""

from __future__ import annotations

from tiermesh import ids
from tiermesh.documents.variant import Artifact, Bundle, Variant

BUNDLE = Bundle(artifact=Artifact(digest=ids.digest_bytes(b""), size_bytes=0), entry="code:Code")
VARIANT = Variant(
    model="m",
    name="v",
    runtime="onnx",
    precision="f32",
    model_file="m.onnx",
    files={"m.onnx": BUNDLE.artifact},
    bundle=BUNDLE,
)
