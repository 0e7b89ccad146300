"""Having devices measured: what, in which order, and what came of it."""
