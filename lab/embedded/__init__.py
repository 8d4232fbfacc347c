"""The control plane of an embedded lab: API server, node service, network plugins and service proxy."""
