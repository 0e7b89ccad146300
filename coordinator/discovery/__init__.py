"""Finding devices and asking them for their description."""
