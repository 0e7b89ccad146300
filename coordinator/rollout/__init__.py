"""Bringing a plan to the devices: assignments, artifacts, and the steps of a rollout."""
