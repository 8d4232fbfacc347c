"""Documents of the API as something that a person likes to read on a terminal.

Everything here is a pure function from a value of `model` to a renderable of rich. Nothing is said by colour alone.
"""
