"""The agent on every node, and the endpoint: probes, facts on request, and the way of their reports."""
