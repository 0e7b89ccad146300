"""Recipes that build, measure and ship the variants of the workflows, and the data they are measured on.

Not part of the wheel: `coordinator variants` runs what is here from a checkout.
"""
