"""For every test: in CI, hypothesis draws the same examples each time, and a failing one prints how to replay it."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
