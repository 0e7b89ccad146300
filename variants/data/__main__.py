"""Render photos of signs for a source to read: ``python -m variants.data FOLDER [--count N] [--seed N]``."""

import argparse
import tempfile
from pathlib import Path

from variants.data import render_signs


def main() -> None:
    """Write the photos, without the truth about them: a source sends every file of its folder."""
    parser = argparse.ArgumentParser(prog="python -m variants.data", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20, help="photos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="of the photos (default: %(default)s)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as scratch:
        for sign in render_signs(Path(scratch), args.count, args.seed):
            (Path(scratch) / sign.name).replace(args.folder / sign.name)


main()
