"""Planning problems of other systems, read from their own files."""
