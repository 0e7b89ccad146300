"""For every test: in CI, hypothesis draws the same examples each time, and a failing one prints how to replay it."""

import os
import signal

from hypothesis import settings

# Machines are shared: how long one example takes says nothing about the code.
settings.register_profile("here", deadline=None)
settings.load_profile("here")
settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Who starts tests in the background may have them ignore SIGINT, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
