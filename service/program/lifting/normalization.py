"""Batch normalisation at inference, written as one op.

Beside the other families of `lifting`; below: `arithmetic`, `constants`. Keras writes it in several ops on constants,
which are folded.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.program.constants import Constant, floats, folded, folded_function, refused
from service.program.inlining import GraphNode
from service.program.lifting.arithmetic import scaled
from service.program.lifting.builder import Builder, Lift, vector
from service.program.operators import Identity, Scale
from service.program.program import AffineNode, Term
from service.program.tensors import Tensor, rows_of


def batch_norm(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    r"""Return batch normalisation with constant statistics, channel by channel, the channels last.

    .. math:: y = (x - \mu) \cdot \frac{\gamma}{\sqrt{v + \epsilon}} + \beta

    The factor is folded in the numbers' own precision, one correctly rounded operation after the other; its sign is
    that of gamma, because a square root of a positive number is positive, and zero or worse is refused.
    """
    rows = rows_of(node, inputs[0])
    if node.attributes.get("is_training") in (True, None):
        raise refused("row-axis", node, "normalises by the mean of the batch. Export the model for inference")
    if str(node.attributes.get("data_format") or "NHWC").startswith("NC") or len(inputs) != 5:
        raise refused("not-lifted", node, "has another format; export it with channels last")
    constants = [tensor for tensor in inputs[1:] if isinstance(tensor, Constant)]
    if len(constants) != 4:
        raise refused("not-lifted", node, "must normalise by constants")
    gamma, beta, mean, variance = constants
    if any(constant.array.shape != rows.shape[-1:] for constant in constants):
        raise refused("not-lifted", node, f"must normalise {rows.shape[-1:]} channels by as many numbers")
    epsilon = Constant(np.asarray(node.attributes.get("epsilon", 1e-4), variance.array.dtype), "epsilon")
    inverse = folded_function(node, folded(node, variance, epsilon, np.add), "Rsqrt")
    factor = folded(node, gamma, inverse, np.multiply)
    centre = vector(rows, -floats(node, mean.array), rows.shape)
    moved = builder.append(AffineNode(rows.width, (Term(rows.node, Identity()),), centre, node.name), rows, rows.shape)
    result = scaled(builder, node, moved, factor, Scale)
    offset = vector(rows, floats(node, beta.array), rows.shape)
    return builder.append(AffineNode(rows.width, (Term(result.node, Identity()),), offset, node.name), rows, rows.shape)


OPS: Mapping[str, Lift] = {"FusedBatchNorm": batch_norm, "FusedBatchNormV2": batch_norm, "FusedBatchNormV3": batch_norm}
