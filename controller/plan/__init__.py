"""Who probes what, how often: pure functions from cluster state to plans."""
