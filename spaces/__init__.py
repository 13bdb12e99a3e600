"""What can be built: kernels, graphs of kernels, and the search spaces over them.

Nothing here knows about devices or data. Importing it is cheap: torch and onnx are loaded when a
graph is trained or written.
"""

from hwnas.spaces.errors import (
    ConfigError,
    DataError,
    DeviceUnavailable,
    HwnasError,
    InfeasibleError,
    ModelError,
    TableError,
)
from hwnas.spaces.graph import Block, Graph, GraphBuilder, Node
from hwnas.spaces.kernel import Kernel
from hwnas.spaces.space import Architecture, Decision, SearchSpace, Term, get_space, list_spaces

__all__ = [
    "Architecture",
    "Block",
    "ConfigError",
    "DataError",
    "Decision",
    "DeviceUnavailable",
    "Graph",
    "GraphBuilder",
    "HwnasError",
    "InfeasibleError",
    "Kernel",
    "ModelError",
    "Node",
    "SearchSpace",
    "TableError",
    "Term",
    "get_space",
    "list_spaces",
]
