"""One penalty over many filters, some of them frozen. Run: PYTHONPATH=. python THIS_FILE.

docs/joint-filters.md explains it.
"""

import keras
import numpy as np

from training.freezing import retrace
from training.layers.filter_bank import FilterBank


def main():
    """Train ten filters to be orthogonal, three of them frozen, then others."""
    keras.utils.set_random_seed(0)
    bank = FilterBank(10, kernel_size=1, regularizer="pairwise_cosine_orthogonality", name="bank")
    model = keras.Sequential([keras.Input((7, 7, 32)), bank])
    bank.set_trainable_parts([False] * 3 + [True] * 7)
    print("trainable weights:", sum(np.prod(v.shape) for v in model.trainable_variables))
    print("frozen weights:", sum(np.prod(v.shape) for v in model.non_trainable_variables))

    rows = np.random.default_rng(0).normal(size=(500, 7, 7, 32)).astype("float32")
    targets = rows[..., :10]
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=lambda y, found: 0.0 * keras.ops.mean(found - y))

    def train():  # the penalty alone counts here: 500 steps of it
        model.fit(rows, targets, batch_size=1, epochs=1, verbose=0)

    before = [part.kernel.numpy() for part in bank.parts]
    print("largest cosine at the start: above 0.1:", bank.coherence().largest > 0.1)
    train()
    same = [bool(np.array_equal(old, part.kernel.numpy())) for old, part in zip(before, bank.parts, strict=True)]
    print("filters that kept every bit:", [index for index, kept in enumerate(same) if kept])

    bank.set_trainable_parts([True] * 10)  # a compiled step says so if one forgets the next line
    retrace(model)
    train()
    print("largest cosine with all ten trained: below 0.001:", bank.coherence().largest < 1e-3)

    wide = FilterBank(6, regularizer="pairwise_cosine_orthogonality")
    wide.build((None, 4))
    print(f"six filters of four weights cannot be orthogonal: floor {wide.coherence().floor:.3f}")


if __name__ == "__main__":
    main()
