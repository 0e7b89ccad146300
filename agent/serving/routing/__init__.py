"""The way of a request on one device: where frames go, where branches meet, what waits for which replica. Pure."""
