"""Stateful stages: the order in which they fold, what their state is, and how it moves to another device."""
