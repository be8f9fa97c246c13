"""Programs that measure the project; run them from the checkout, `python -m benchmarks.NAME`."""
