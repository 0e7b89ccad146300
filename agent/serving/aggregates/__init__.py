"""Stateful stages: the order in which they fold, their state on disk, and how it moves to another device."""
