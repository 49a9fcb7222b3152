"""The registry of activations: the role each may play in a convex network, why, and a counterexample where it may not.

At the bottom of training, beside `constraints` and `initializers`; `layers` and `icnn` resolve names here. `properties`
says what is known of an activation; `hidden`, `first` and `never` are the three tables; `registry` reads names;
`declaration` takes a user's own function in; `function` is what Keras layers are given.
"""

from training.activations.declaration import declare, scan
from training.activations.function import ConvexActivation
from training.activations.never import refusal
from training.activations.properties import Activation, ActivationRefusedError, Counterexample, Curvature, Role
from training.activations.registry import CURVED, names, resolve

__all__ = [
    "CURVED",
    "Activation",
    "ActivationRefusedError",
    "ConvexActivation",
    "Counterexample",
    "Curvature",
    "Role",
    "declare",
    "names",
    "refusal",
    "resolve",
    "scan",
]
