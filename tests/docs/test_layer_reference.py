"""The reference of the layer set: current, and complete down to the arguments."""

import inspect

import pytest

from docs import layer_reference

CLASSES = layer_reference.registered()


def test_page_of_layers_is_the_one_that_would_be_written() -> None:
    """Whoever changes a docstring of a registered class writes the page again."""
    assert layer_reference.document() == layer_reference.PAGE.read_text()


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_of_every_registered_class_names_its_arguments(name: str) -> None:
    """Each class has a docstring of its own, and each named argument of its constructor stands in it."""
    text = CLASSES[name].__dict__.get("__doc__") or ""
    assert text
    if "__init__" in CLASSES[name].__dict__:
        parameters = list(inspect.signature(CLASSES[name].__init__).parameters.values())[1:]
        named = {parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
        assert set() == {argument for argument in named if f" {argument}: " not in text}


@pytest.mark.parametrize("name", CLASSES)
def test_page_of_layers_has_a_section_for_every_registered_class(name: str) -> None:
    """What is registered is documented."""
    assert f"\n### {CLASSES[name].__name__}\n" in layer_reference.PAGE.read_text()
