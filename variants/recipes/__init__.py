"""Recipes: each module makes one artifact of others.

`build(inputs, output, options, progress)` reads the files in `inputs` (paths by the recipe's names), writes `output`,
and calls `progress(done, total)` now and then. Run one by ``python -m variants.recipes`` with the request as JSON on
standard input; see `coordinator.variants.building`.
"""
