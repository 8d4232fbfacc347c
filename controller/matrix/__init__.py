"""What was observed of every path: windows, states, cells."""
