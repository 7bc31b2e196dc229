"""Serving applications: `Server`, and what it is made of.

Server owns the listening sockets, the table, the engine and the loop's side of an application's life (lifespan,
signals, draining). It moves no byte and decides nothing about a connection: the engine and the policy do.
"""

from kacore.errors import UsageError
from kacore.server.loading import detect_interface, load
from kacore.server.running import run, serving
from kacore.server.server import Server
from kacore.server.tls import TLS

__all__ = ["TLS", "Server", "UsageError", "detect_interface", "load", "run", "serving"]
