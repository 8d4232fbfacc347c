"""Packets and captures: bursts of marked packets, and where they are seen; who has an address (scapy's only home)."""
