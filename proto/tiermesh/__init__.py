"""What agents and coordinator agree on: documents, ids, limits and the wire."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 3
"""Raised when an older peer could misread a message; peers refuse each other across it."""
