"""What a coordinator does for its clients: one service, served on a Unix socket or used in process.

The journal has one writer, so a command cannot open the mesh beside a running coordinator. That one serves the API in
its state folder; where none runs, the client opens the mesh itself and calls the same handlers.
"""
