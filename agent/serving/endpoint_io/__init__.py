"""The I/O of sources and sinks: spools, results, the data folder, and one module for each kind of endpoint.

`agent.serving.endpoints` decides, without any I/O; here it is carried out.
"""
