"""`decoding_mode: auto`: which block length a self-speculating request drafts with, step by step."""
