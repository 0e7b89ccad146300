"""Streams of frames between two devices: the state machines, pure, and gRPC around them."""
