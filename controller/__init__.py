"""The controller: watches the cluster, plans probes, keeps the matrix, names causes, answers people."""
