"""What devices measure while they serve, and what follows from it."""
