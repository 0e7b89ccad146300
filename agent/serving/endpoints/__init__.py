"""The ends of a workflow: what sources make and keep until it is confirmed, and what sinks write, once."""
