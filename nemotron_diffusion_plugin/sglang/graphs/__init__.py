"""Worker process: CUDA graphs of verify forwards, drafts and decode steps."""
