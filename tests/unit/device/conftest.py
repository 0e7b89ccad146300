"""The doubler variant and its store, for every test of this folder."""

from tests.doubler import make_variant, store

__all__ = ["make_variant", "store"]
