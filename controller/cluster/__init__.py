"""Kubernetes: watch, typed state, reviews. The only home of the kubernetes library."""
