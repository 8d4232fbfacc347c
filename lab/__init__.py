"""The lab: a whole cluster in network namespaces of one machine, to try kubereach on and to break."""
