"""The real Kubernetes of a lab: its binaries, its images, and how they run in the lab's network namespaces."""
