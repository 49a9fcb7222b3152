"""The promise of a layer about its weights, kept where they leave and enter.

Below every layer of this room that makes such a promise; above nothing of ours.
"""

import abc
from typing import Any


class Verified(abc.ABC):
    """A Keras layer whose weights are looked at before every save and after every load; to be named before Keras' own.

    An optimiser's step keeps a constraint, a plain `assign` does not, and a file may hold anything: what `verify`
    refuses reaches no file and comes from none.
    """

    @abc.abstractmethod
    def verify(self) -> None:
        """Refuse weights that break the layer's promise.

        Raises:
            ValueError: names the layer and the first such weight.
        """

    def save_own_variables(self, store: Any) -> None:
        """Save the variables, once they are verified."""
        self.verify()
        super().save_own_variables(store)  # type: ignore[misc]  # Keras' layer comes behind this class

    def load_own_variables(self, store: Any) -> None:
        """Load the variables and verify them."""
        super().load_own_variables(store)  # type: ignore[misc]  # as above
        self.verify()
