"""A live version with a context, in closed form: score = |c|^2 |x|^2 / 2, gradient by x = |c|^2 x."""

import numpy as np

from service.signature import Signature, own_signatures
from tests.service.quadratic_versions import QuadraticEngine

DIM, CONTEXT_DIM = 3, 2
X = np.float32([[1, 2, 3], [-1, 0.5, 0]])
CONTEXT = np.float32([[1, 0], [1, 2]])
SCORE = [7.0, 3.125]
GRADIENT = [[1.0, 2.0, 3.0], [-5.0, 2.5, 0.0]]


class GatedEngine(QuadraticEngine):
    """Rows are [x | context]."""

    def run(self, rows, outputs):
        """Return the wanted outputs, the gradient as wide as x."""
        self.calls.append((len(rows), outputs))
        self.rows.extend(rows.tolist())
        x, factor = rows[:, :DIM], np.square(rows[:, DIM:]).sum(axis=1)
        values = {
            "score": np.float32(0.5) * factor * np.square(x).sum(axis=1),
            "gradient": (x * factor[:, None]).astype(np.float32),
        }
        return {name: values[name] for name in outputs}


def signature(model="gated", version=1):
    """Return the signature of such a version, its columns named."""
    return Signature(
        model,
        version,
        DIM,
        ("radius", "texture", "area"),
        file_signatures=own_signatures(support=False, context=True),
        context_dim=CONTEXT_DIM,
        context_features=("season", "place"),
    )


def publish(service, model="gated"):
    """Bring such a version through its life; return it."""
    return service.publish(model, 1, signature=signature(model), engine=GatedEngine(1))
