"""The I/O of streams: gRPC carries what the state machines of `agent.serving.streams` say."""
