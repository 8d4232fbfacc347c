"""Netfilter of one namespace: read from all three backends, owners told, packets walked through it."""
