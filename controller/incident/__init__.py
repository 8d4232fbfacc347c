"""Incidents: diagnoses with a lifetime."""
