"""Programs that run vLLM in one process and print as JSON what no HTTP answer shows."""
