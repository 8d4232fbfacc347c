"""The switchboard's faults, one file each: each is the twin of a cause in `controller/diagnosis/causes/`."""
