"""What crosses a process boundary: words, probes, facts, diagnoses and the protocol that carries them.

Needs the standard library and msgspec alone, so that the resident agent stays small. Nothing in here does input or
output, and nothing in here decides.
"""
