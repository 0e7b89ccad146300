"""The handlers of the API, by subject: each takes a request of `coordinator.proto` and answers with its reply."""
