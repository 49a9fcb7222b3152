"""An activation of the registry as Keras layers take one: a function that is saved by its name and parameters.

Over `registry`; `icnn` gives it to the first layer, a user to any layer of Keras.
"""

from typing import Any

import keras

from training.activations.properties import Role
from training.activations.registry import resolve


@keras.saving.register_keras_serializable(package="convex_scoring")
class ConvexActivation:
    """A function for `keras.layers.Dense(activation=...)` and the like, checked against the role that it is given.

    Saved as `convex_scoring>ConvexActivation` with the name, the parameters and the role; a file that names an
    activation which may not play its role does not load.

    Example:
        >>> first = keras.layers.Dense(8, activation=ConvexActivation("squared_leaky(0.2)", "first layer only"))
        >>> first.activation.get_config()["parameters"]
        {'alpha': 0.2}

    Args:
        name: as of `resolve`, with or without parameters in parentheses.
        role: where it is put: `hidden`, or `first layer only` where the argument is affine in the row.
        parameters: parameters by name, beside or in place of those in the parentheses.

    Raises:
        ActivationRefusedError: as `resolve`.
        ValueError: the role is not a word of `Role`, or a parameter's name is not one of the activation's.
    """

    def __init__(self, name: Any, role: str = Role.HIDDEN, parameters: dict[str, float] | None = None) -> None:
        self.role = Role(role)
        self.activation = resolve(name, self.role)
        if parameters:
            unknown = set(parameters) - set(self.activation.parameters)
            if unknown:
                message = f"activation: '{self.activation.name}' has no parameter {sorted(unknown)}."
                raise ValueError(message)
            values = {**self.activation.parameters, **parameters}
            numbers = ", ".join(repr(float(value)) for value in values.values())
            self.activation = resolve(f"{self._base()}({numbers})", self.role)

    def __call__(self, x: Any) -> Any:
        """Return the activation of each number of `x`."""
        return self.activation.function(x)

    def get_config(self) -> dict[str, Any]:
        """Return the name, the parameters and the role."""
        return {"name": self._base(), "role": str(self.role), "parameters": dict(self.activation.parameters)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConvexActivation":
        """Return the activation of a configuration."""
        return cls(**config)

    def _base(self) -> str:
        """Return the name without parameters."""
        return self.activation.name.partition("(")[0]
