"""What is known of the nodes' own networks: what changed and when, and their latest facts."""
