"""Commands while a coordinator is at work: it carries them out for the processes that ask it to.

The journal has one writer, so a command cannot open the mesh beside a coordinator that runs. That one listens on a Unix
socket in its state folder; the command sends its words there and prints what comes back.
"""
