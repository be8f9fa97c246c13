"""Worker process: an attention backend whose blocks are causal or bidirectional by our Triton kernel."""
