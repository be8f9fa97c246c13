"""Measuring served models: acceptance, tokens per forward, accuracy, latency and throughput by decoding method."""
