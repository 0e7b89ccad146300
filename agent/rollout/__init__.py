"""Rollout on a device: artifacts come in, an assignment is prepared, committed, and kept across restarts."""
