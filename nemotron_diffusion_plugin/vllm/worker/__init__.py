"""Worker process: drafting, acceptance, and the state of the requests in their slots."""
