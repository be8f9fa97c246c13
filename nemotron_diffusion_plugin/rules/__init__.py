"""The engine-independent decoding rules in plain torch: picking, block state, commit, accept and stop."""
