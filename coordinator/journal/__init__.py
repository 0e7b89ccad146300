"""The journal of events, the state it keeps, and the loop that carries out what the state asks for."""
