"""Engine core: the scheduler, and the block lengths of requests in auto."""
