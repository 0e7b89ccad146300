"""The wire messages, version 1; the stubs are made by `proto/generate.py`."""
