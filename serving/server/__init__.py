"""A server for SavedModels that speaks TF Serving's REST and gRPC APIs, for laptops, tests and small deployments."""

from serving.server.errors import ModelLoadError, PortInUseError, StatusError
from serving.server.server import Server, serve

__all__ = ["ModelLoadError", "PortInUseError", "Server", "StatusError", "serve"]
