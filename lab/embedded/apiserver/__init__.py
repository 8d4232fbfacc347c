"""The embedded Kubernetes API of a lab: `python -m lab.embedded.apiserver`.

It is the law of Kubernetes that a client meets: storage, versions, watches, defaults, refusals, access. It starts no
pod and writes no rule; other services of the lab do that, through this API.
"""
