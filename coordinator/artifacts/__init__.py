"""Artifacts on their way to devices."""
