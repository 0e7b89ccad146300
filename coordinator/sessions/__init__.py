"""Control sessions with agents: channels, sessions that resume, and how good the link is."""
