"""Streams of frames between two devices, as state machines: numbers, acknowledgements, windows, fencing."""
