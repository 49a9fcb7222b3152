"""What is computed of rows by ops that no program node stands for, kept as an expression until it is recognised.

Below `tensors`, one of whose kinds it is; above: `expressions`.
"""

import dataclasses

from service.errors import VersionRefusedError
from service.program.expressions import TRUTHS, Call, Expression
from service.program.recognition import Match


@dataclasses.dataclass(frozen=True, eq=False)
class Pending:
    """A tensor [n, *shape] that is computed number by number from program nodes.

    Args:
        expression: how.
        shape: the axes after the first.
        before: as of `Rows`.
        after: as of `Rows`.
        op: TensorFlow's name of the op that ends the expression.
        name: its node's name.
        match: what it is as an atom of one node, if anything, though no curvature is known of that.
        reason: why it is none, or what is not known.
    """

    expression: Expression
    shape: tuple[int, ...]
    before: int
    after: int
    op: str
    name: str
    match: Match | None
    reason: str

    @property
    def is_truth(self) -> bool:
        """Whether it holds truths, not numbers."""
        return isinstance(self.expression, Call) and self.expression.operation in TRUTHS

    def refusal(self) -> VersionRefusedError:
        """Return the refusal for a reader that needs a program node."""
        return VersionRefusedError("not-lifted", f"op {self.op} (node {self.name}) {self.reason}")
