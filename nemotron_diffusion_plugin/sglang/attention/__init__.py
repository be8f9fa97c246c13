"""Worker process: an attention backend whose blocks are causal or bidirectional by our Triton kernel."""

NAME = "nemotron_block"
"""What `--attention-backend` calls it."""
