"""The agent: the process on a device that announces it, measures it, and serves its part of a plan."""
