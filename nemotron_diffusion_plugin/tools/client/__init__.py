"""What a client may know of a running server: which model it serves, and its counters."""
