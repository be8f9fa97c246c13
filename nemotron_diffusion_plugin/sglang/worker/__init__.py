"""Worker process: drafting, the verify forward, acceptance and the counters."""
