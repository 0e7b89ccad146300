"""Ladders of variants: read, fetched, built, measured, and offered to the rest of the coordinator.

`Ladders.open(directory, home)` answers what there is; `Fetcher(ladders).fetch(models)` brings what is missing;
`bundle(folder, home)` makes an artifact of any folder of stage code.
"""

from coordinator.variants.bundles import bundle
from coordinator.variants.fetching import Fetched, Fetcher, FetchProgress, Watch
from coordinator.variants.ladders import Ladders

__all__ = ["FetchProgress", "Fetched", "Fetcher", "Ladders", "Watch", "bundle"]
