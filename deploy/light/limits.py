"""Bounds of the front without PyTorch: how much of it one client, or all together, may hold."""

from handler.protocol.request import MOST_UNPACKED

MOST_BYTES = MOST_UNPACKED  # of a body
MOST_ARRIVED = 16 * MOST_BYTES  # of bodies that arrive at the same time
MOST_FIELDS = 100  # of a form
SLOWEST = 60.0  # seconds that a client may take for its request, and for a part of the answer
