"""Ports, and the mark of an echo request, for programs too small to load anything else of the model."""

UDP_MAGIC = b"KR"
UDP_REPLY = b"kr"
ENDPOINT_PORT = 8700
HOST_ECHO_PORT = 8701
RELAY_PORT = 8702
CONTROLLER_PORT = 8703
CONTROLLER_PLAIN_PORT = 8704
