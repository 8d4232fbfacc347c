"""The command `kubereach`: a client of the controller's API, and of the lab."""
