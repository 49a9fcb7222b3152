"""The heart: one convex program lifted from a SavedModel, and its several interpretations.

`program` holds the nodes; `curvature` proves them convex, `evaluation` runs them, `intervals` bounds them. Only
`graph` imports TensorFlow, and nothing here imports `graph` but `certification`. Above: `loader` and `engines`.
"""

from service.errors import VersionRefusedError
from service.program.curvature import Certificate, Step, prove
from service.program.program import Program

__all__ = ["Certificate", "Program", "Step", "VersionRefusedError", "prove"]
