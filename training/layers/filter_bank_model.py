"""The bank of filters as a Keras model, to be compiled and saved by itself.

Over `filter_bank`.
"""

import keras

from training.layers.filter_bank import FilterBank


@keras.saving.register_keras_serializable(package="convex_scoring")
class FilterBankModel(FilterBank, keras.Model):
    """What `FilterBank` is, as a model: it can be compiled, fitted, summarised and saved, or stand in another one.

    Args:
        *args: as of `FilterBank`.
        **kwargs: the same.

    Input shape:
        As of `FilterBank`.

    Output shape:
        As of `FilterBank`.
    """
