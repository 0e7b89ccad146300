"""Write the Python stubs of `tiermesh/v1/*.proto` beside them: ``python proto/generate.py [OUT]``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent


def generate(out: Path) -> None:
    """Generate messages, services and their type stubs below `out`."""
    import grpc_tools
    from grpc_tools import protoc

    files = sorted(str(path.relative_to(HERE)) for path in HERE.glob("tiermesh/v1/*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    compile_protos = cast("Callable[[list[str]], int]", protoc.main)
    code = compile_protos(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out={out}",
            f"--mypy_grpc_out={out}",
            *files,
        ]
    )
    if code != 0:
        raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
