"""Serving stages: frames in, batches through runtimes and stage code, frames out."""
