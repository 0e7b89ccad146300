"""The I/O of aggregates: their states on disk, and between devices."""
