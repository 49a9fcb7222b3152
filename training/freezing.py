"""Variables that can be frozen one part at a time, such that no step moves a frozen part and no toggle goes unseen.

Over `call_time`; `layers.filter_bank` is made of them. An optimiser that is handed a masked gradient still moves what
is masked: Adam by its momentum, decay by the weight itself. So a frozen part is a variable of its own that no
optimiser is handed. But Keras hands over those that were trainable when `fit` was traced, and says nothing when that
has changed since.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from training.call_time import before_each_call, is_tracing

_building = contextvars.ContextVar("building", default=False)


class FrozenSetChangedError(RuntimeError):
    """A compiled function was called after parts were frozen or thawed: it would go on with those it was traced for."""


class FrozenPartError(RuntimeError):
    """An optimiser was handed a frozen part: it would have moved it."""


class Parts:
    """Which parts of a layer are trained: a flag for each, and one for all of them.

    Reading a flag while a function is traced makes that function raise when it is called after the flags have changed
    (until they are what they were): it has built the old ones in.

    Args:
        name: of the layer, for messages.
        flags: one for each part, True where it is trained.
        whole: False where the whole layer is frozen, whatever its flags.
    """

    def __init__(self, name: str, flags: Sequence[bool], *, whole: bool = True) -> None:
        self.name = name
        self.flags = list(flags)
        self.whole = whole

    def set_flags(self, trainables: Sequence[bool]) -> None:
        """Freeze and thaw parts; what is refused changes nothing.

        Args:
            trainables: for each part, in order, True to train it and False to freeze it.

        Raises:
            ValueError: not one for each part.
            TypeError: no list, or one of them is no boolean.
        """
        if not isinstance(trainables, (list, tuple, np.ndarray)):
            message = f"{self.name}: trainables: expected a list of booleans, received {trainables!r}."
            raise TypeError(message)
        if len(trainables) != len(self.flags):
            message = (
                f"{self.name}: trainables: expected {len(self.flags)} booleans, one for each part, received "
                f"{len(trainables)}."
            )
            raise ValueError(message)
        for index, flag in enumerate(trainables):
            if not isinstance(flag, (bool, np.bool_)):
                message = f"{self.name}: trainables[{index}]: expected True or False, received {flag!r}."
                raise TypeError(message)
        self.flags[:] = [bool(flag) for flag in trainables]

    def is_trained(self, part: int) -> bool:
        """Return whether a part is trained now."""
        return self.whole and self.flags[part]

    def read(self, part: int) -> bool:
        """Return whether a part is trained now; if a function is being traced, it depends on all flags from now on."""
        self.watch()
        return self.is_trained(part)

    def watch(self) -> None:
        """Let the function that is being traced, if any, raise when it is called with other flags."""
        if is_tracing():
            traced = self._trained()
            before_each_call(("parts", id(self)), lambda: self._compare(traced))

    def _trained(self) -> tuple[bool, ...]:
        return tuple(self.whole and flag for flag in self.flags)

    def _compare(self, traced: tuple[bool, ...]) -> None:
        now = self._trained()
        if now == traced:
            return
        frozen = [index for index, (before, after) in enumerate(zip(traced, now, strict=True)) if before and not after]
        thawed = [index for index, (before, after) in enumerate(zip(traced, now, strict=True)) if after and not before]
        message = (
            f"{self.name}: this function was compiled before parts {frozen} were frozen and parts {thawed} thawed, and "
            f"would go on as if they were not. Call training.freezing.retrace(model) after the change, which keeps the "
            f"optimiser's state, or compile the model again; make a tf.function of your own anew."
        )
        raise FrozenSetChangedError(message)


class FreezableVariable(keras.Variable):
    """A variable that is trainable while its part is; Keras' setter switches the part.

    Args:
        parts: the flags of the layer.
        part: which of them is this variable's.
        **kwargs: of `keras.Variable`.

    Raises:
        FrozenPartError: by an optimiser that is handed this variable while it is frozen, before it moves anything.
        FrozenSetChangedError: by a compiled function that was traced with other flags.
    """

    def __init__(self, parts: Parts, part: int, **kwargs: Any) -> None:
        self._parts, self._part = parts, part
        super().__init__(**kwargs)

    @property
    def trainable(self) -> bool:
        """Whether the part is trained; True until there is a value, for a tape never watches a variable made frozen."""
        return getattr(self, "_value", None) is None or self._parts.read(self._part)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._parts.flags[self._part] = bool(value)

    @property
    def overwrite_with_gradient(self) -> bool:
        """False; Keras' optimisers ask each variable that they are handed for it, before they move the first one."""
        if not (_building.get() or self._parts.read(self._part)):
            message = (
                f"{self.path}: an optimiser was handed a frozen part of {self._parts.name}. Hand it the model's "
                f"trainable_variables as they are now; where it must know frozen ones beforehand, let "
                f"training.freezing.extended build it."
            )
            raise FrozenPartError(message)
        return False

    def assign(self, value: Any) -> Any:
        """Assign; a compiled function that does it depends on the flags."""
        self._parts.watch()
        return super().assign(value)


def retrace(model: keras.Model) -> None:
    """Let a compiled model see what was frozen and thawed since: its next step is traced again.

    Metrics and the optimiser's state stay, those of frozen parts included, so that a part that is thawed goes on
    with its own momentum. Where the optimiser does not know a thawed part yet, `model.optimizer` becomes one that
    does (`extended`).

    Args:
        model: compiled; one that is not yet has nothing to forget.

    Raises:
        ValueError: the optimiser keeps moving averages (`use_ema`), and would write them into frozen variables.
    """
    if model.compiled:
        model.optimizer = extended(model.optimizer, model.trainable_variables)
    for made, make in (("train_function", model.make_train_function), ("test_function", model.make_test_function)):
        if getattr(model, made) is not None:
            make(force=True)


def extended(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> keras.optimizers.Optimizer:
    """Return an optimiser that knows the given variables too, with the state of all that the given one knows.

    Keras builds an optimiser for the variables that are trainable at the first step, and for no others later.

    Args:
        optimizer: one of Keras'. If it knows all of them, or was not built yet, it is returned itself.
        variables: those to know, frozen or not.

    Raises:
        ValueError: the optimiser keeps moving averages (`use_ema`), and would write them into frozen variables; or it
            is built otherwise than those of Keras.
    """
    if not getattr(optimizer, "built", False):
        return optimizer
    known = list(optimizer._trainable_variables)  # Keras has no public name for it
    missing = [variable for variable in variables if not any(variable is other for other in known)]
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema and (missing or len(variables) != len(known)):
        message = (
            f"{optimizer.name}: expected an optimiser without moving averages (use_ema), which it would write into "
            f"frozen variables. Compile the model again with a new optimiser."
        )
        raise ValueError(message)
    if not missing:
        return optimizer
    wider = type(optimizer).from_config(optimizer.get_config())
    with _frozen_ones_too():
        wider.build([*known, *missing])
    copied = set()
    for old, new in zip(_slots(optimizer), _slots(wider), strict=True):
        for source, target in zip(old, new, strict=False):  # those of the known variables come first
            if source is not None:
                target.assign(source)
                copied.add(id(source))
    if not copied >= {id(variable) for variable in optimizer.variables}:
        message = (
            f"{optimizer.name}: expected an optimiser of Keras, whose state is a list for each slot, received "
            f"{type(optimizer).__name__}. Compile the model again with a new optimiser."
        )
        raise ValueError(message)
    return wider


def _slots(optimizer: keras.optimizers.Optimizer) -> Iterator[list[Any]]:
    """Yield the state of an optimiser: a list for each slot, in the order of its variables, and single ones."""
    for name, value in vars(optimizer).items():
        if isinstance(value, keras.Variable):
            yield [value]
        elif isinstance(value, keras.optimizers.Optimizer):
            yield from _slots(value)
        elif name != "_trainable_variables" and name != "_variables" and _is_slot(value):
            yield list(value)


def _is_slot(value: Any) -> bool:
    """Return whether an optimiser's attribute is a list of variables, None among them where one has none."""
    return isinstance(value, list) and all(item is None or isinstance(item, keras.Variable) for item in value)


@contextlib.contextmanager
def _frozen_ones_too() -> Iterator[None]:
    """Let an optimiser that is only being built be handed frozen parts."""
    token = _building.set(True)
    try:
        yield
    finally:
        _building.reset(token)
