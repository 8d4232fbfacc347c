"""From a failing path to the object at fault: localise, examine, explain; one cause, one file."""
