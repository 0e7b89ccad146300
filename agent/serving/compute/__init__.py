"""The compute lane and what runs in it: models in their runtimes, and stage code."""
