"""One probe, one file. What a probe says is an `Attempt` with an `Outcome`; nothing in here concludes from it."""
