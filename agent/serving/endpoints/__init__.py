"""Sources and sinks as state machines: what sources offer and keep until it is confirmed, and what sinks end, once.

No I/O here, and time is an argument; `agent.serving.endpoint_io` carries out what these decide.
"""
