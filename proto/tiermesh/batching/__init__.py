"""The policy of batching, and how a setting of it is chosen: what the planner counts with and the worker does.

Standard library only: a device without NumPy runs it.
"""
