"""Programs that run vLLM in a process of their own and return what no HTTP answer shows (`tests/served/inside.py`)."""
