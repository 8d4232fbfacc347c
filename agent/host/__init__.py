"""Facts: reads one network namespace in a child process that ends (`python -m agent.host`)."""
