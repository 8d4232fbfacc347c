"""Packets and captures: the tap that counts a flow at every device, and bursts to be counted (scapy's only home)."""
