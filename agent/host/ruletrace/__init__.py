"""By the kernel's own word: which rules of the packet filter take the packets of one flow.

`tracer.RuleTracer` is what others call. What it makes in the kernel it takes away; after kill -9
`leftovers.remove` does, at the agent's next start or the next trace.
"""
