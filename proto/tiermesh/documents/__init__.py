"""The files that people and machines exchange, each a typed, versioned document.

workflow (YAML) · fingerprint · variant · profile · problem · plan · assignment (JSON). The structs here are the one
source of each schema: they decode, they validate, and the JSON Schemas beside them are generated from them.
"""

from __future__ import annotations

import atexit
import gc

# msgspec 0.21 and 0.22 may crash when the garbage collector frees the types of structs as the interpreter ends
# (TypeNode_Free), which turns a process's exit code into that of a signal. What is frozen is not collected any more.
atexit.register(gc.freeze)
