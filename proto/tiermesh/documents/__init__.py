"""The files that people and machines exchange, each a typed, versioned document.

workflow (YAML) · fingerprint · variant · profile · problem · plan · assignment (JSON). The structs here are the one
source of each schema: they decode, they validate, and the JSON Schemas beside them are generated from them.
"""
