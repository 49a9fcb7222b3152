"""Program to plan: the steps of one evaluation in order, each with its constants and its places in scratch memory.

Above: `compiled`. Below: `joining`, `buffers`, `program`, `operators`, `atoms`. The numbers and the layout of steps are
those of `steps.h`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Abs, Atom, Elu, Exp, LeakyRelu, Softplus, Square, SquaredLeaky
from service.program.kernel.buffers import NOWHERE, Buffers
from service.program.kernel.joining import Operation, Step, joined
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term

PANEL = 64
"""Columns of a packed matrix that lie side by side."""

TILE_ROWS = 6
"""Rows that a product is computed for at once, at most."""

INPUT, SCORE, GRADIENT = -1, -2, -3
"""Places outside of the scratch memory."""

STEP = np.dtype(
    [
        ("operation", np.int64),
        ("width", np.int64),
        ("depth", np.int64),
        ("first", np.int64),
        ("second", np.int64),
        ("out", np.int64),
        ("slope", np.int64),
        ("accumulates", np.int64),
        ("numbers", np.uintp),
        ("bias", np.uintp),
        ("parameter", np.float64),
    ]
)
"""One step, as `convex_step` in `steps.h`."""

_ALIGNMENT = 64
_ATOM_WORK = 40
_READ_PER_KEPT = 3
_LEAST_BLOCK_ROWS = 48
_MOST_BLOCK_ROWS = 288


_ATOMS: dict[type[Atom], Operation] = {
    Softplus: Operation.SOFTPLUS,
    LeakyRelu: Operation.LEAKY_RELU,
    Elu: Operation.ELU,
    Exp: Operation.EXP,
    Square: Operation.SQUARE,
    SquaredLeaky: Operation.SQUARED_LEAKY,
    Abs: Operation.ABS,
}


class UnknownStepError(Exception):
    """A program has an operator, an atom or a context that the kernel does not know."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The steps of one evaluation.

    Args:
        steps: array of `STEP`.
        constants: what the steps point to; kept alive with them.
        scratch_width: floats of scratch memory that a row needs.
    """

    steps: NDArray[np.void]
    constants: Sequence[NDArray[np.float32]]
    scratch_width: int

    @functools.cached_property
    def address(self) -> int:
        """Where the steps lie."""
        return int(self.steps.ctypes.data)

    @functools.cached_property
    def work(self) -> int:
        """Time of a row, in multiply-adds of a product."""
        atoms = self.steps["width"][self.steps["operation"] >= Operation.SOFTPLUS]
        return self._matrix_floats + _ATOM_WORK * int(atoms.sum())

    @functools.cached_property
    def block_rows(self) -> int:
        """Rows that go through all steps together, so that what is between the steps stays in the cache.

        The matrices are read once for each block, and large ones from afar: of those a block is to read no more than a
        few times what it keeps itself.
        """
        rows = self._matrix_floats // (_READ_PER_KEPT * max(1, self.scratch_width))
        return min(max(rows, _LEAST_BLOCK_ROWS), _MOST_BLOCK_ROWS) // TILE_ROWS * TILE_ROWS

    @property
    def _matrix_floats(self) -> int:
        return int((self.steps["depth"] * self.steps["width"]).sum())


def plan(program: Program, *, gradient: bool) -> Plan:
    """Return the plan of a program's score, and of its gradient where that is wanted.

    Args:
        program: the program; its constants are converted to float32.
        gradient: whether steps of the reverse pass follow.

    Raises:
        UnknownStepError: for an operator or an atom that the kernel does not know.
    """
    writer = _Writer(program, gradient=gradient)
    writer.forward()
    if gradient:
        writer.reverse()
    return writer.finish()


def aligned(num_floats: int) -> NDArray[np.float32]:
    """Return memory for floats, not set, at the start of a line of the cache."""
    memory = np.empty(4 * num_floats + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + 4 * num_floats].view(np.float32)


def packed(matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a matrix [depth, width] as panels [ceil(width / PANEL), depth, PANEL], the last filled up with zeros."""
    depth, width = matrix.shape
    panels = aligned(-(-width // PANEL) * depth * PANEL).reshape(-1, depth, PANEL)
    panels[:] = 0.0
    for number, panel in enumerate(panels):
        columns = matrix[:, number * PANEL : (number + 1) * PANEL]
        panel[:, : columns.shape[1]] = columns
    return panels


class _Writer:
    """Writes the steps of one program."""

    def __init__(self, program: Program, *, gradient: bool) -> None:
        self._program = program
        self._keeps_slopes = gradient
        self._steps: list[Step] = []
        self._constants: list[NDArray[np.float32]] = []
        self._buffers = Buffers()
        self._values: list[int] = []
        self._slopes: dict[int, int] = {}

    # ------------------------------------------------------------------------------------------------------- forward
    def forward(self) -> None:
        """Write the steps that make every node's value."""
        last = len(self._program.nodes) - 1
        for position, node in enumerate(self._program.nodes):
            out = SCORE if position == last else self._buffers.new(node.width)
            match node:
                case InputNode():
                    if node.context:
                        message = "a context"
                        raise UnknownStepError(message)
                    if position == last:
                        self._write(Operation.SUM, node.width, out, INPUT)
                    out = INPUT
                case AffineNode():
                    self._affine(node, out)
                case AtomNode():
                    self._atom(position, node, out)
                case MaximumNode():
                    first, second = (self._values[argument] for argument in node.arguments)
                    slope = self._slope(position, node.width)
                    self._write(Operation.MAXIMUM, node.width, out, first, second=second, slope=slope)
                case _:
                    raise UnknownStepError(type(node).__name__)
            self._values.append(out)

    def _affine(self, node: AffineNode, out: int) -> None:
        terms = sorted(node.terms, key=lambda term: not isinstance(term.operator, Dense))  # stable: products first
        bias = 0 if node.bias is None else self._constant(node.bias)
        is_begun = not terms or (bias != 0 and not isinstance(terms[0].operator, Dense))
        if is_begun:
            self._write(Operation.FILL, node.width, out, bias=bias)
        for term in terms:
            first = self._values[term.argument]
            self._linear(term.operator, node.width, out, first, adds=is_begun, bias=0 if is_begun else bias)
            is_begun = True

    def _linear(self, operator: Operator, width: int, out: int, first: int, *, adds: bool, bias: int = 0) -> None:
        """Write out (+)= T(first)."""
        match operator:
            case Dense():
                self._product(operator.coefficients, out, first, adds=adds, bias=bias)
            case Identity():
                self._write(Operation.SUM, width, out, first, adds=adds)
            case Scale() | Divide():
                operation = Operation.SCALE if isinstance(operator, Scale) else Operation.DIVIDE
                numbers = self._constant(np.broadcast_to(operator.coefficients, (width,)))
                self._write(operation, width, out, first, adds=adds, numbers=numbers)
            case _:
                raise UnknownStepError(type(operator).__name__)

    def _product(self, matrix: NDArray[np.floating], out: int, first: int, *, adds: bool, bias: int = 0) -> None:
        depth, width = matrix.shape
        operation = Operation.DOT if width == 1 else Operation.PRODUCT
        numbers = matrix[:, 0] if width == 1 else packed(matrix)
        self._write(operation, width, out, first, adds=adds, bias=bias, numbers=self._constant(numbers), depth=depth)

    def _atom(self, position: int, node: AtomNode, out: int) -> None:
        operation = _ATOMS.get(type(node.atom))
        if operation is None:
            raise UnknownStepError(node.atom.name)
        parameter = float(getattr(node.atom, "alpha", 0.0))
        slope = self._slope(position, node.width)
        self._write(operation, node.width, out, self._values[node.argument], slope=slope, parameter=parameter)

    def _slope(self, position: int, width: int) -> int:
        if not self._keeps_slopes:
            return NOWHERE
        self._slopes[position] = self._buffers.new(width)
        return self._slopes[position]

    # ------------------------------------------------------------------------------------------------------- reverse
    def reverse(self) -> None:
        """Write the steps of the reverse pass: the gradient of the score by every node, from the last to the input."""
        nodes = self._program.nodes
        self._adjoints: dict[int, int] = {}
        self._common: dict[int, NDArray[np.float32]] = {}  # of adjoints that are the same for all rows
        self._fill(len(nodes) - 1, np.ones(1, np.float32))
        for position in range(len(nodes) - 1, 0, -1):
            if position in self._adjoints:
                self._pull_back(position)
        if 0 not in self._adjoints:
            self._write(Operation.FILL, self._program.dim, GRADIENT)

    def _pull_back(self, position: int) -> None:
        node, adjoint = self._program.nodes[position], self._adjoints[position]
        match node:
            case AffineNode():
                for term in node.terms:
                    self._pull_back_term(term, node.width, adjoint, self._common.get(position))
            case AtomNode():
                out, adds = self._adjoint(node.argument)
                self._write(Operation.TIMES, node.width, out, adjoint, second=self._slopes[position], adds=adds)
            case MaximumNode():
                for argument, operation in zip(node.arguments, (Operation.TIMES, Operation.REST), strict=True):
                    out, adds = self._adjoint(argument)
                    self._write(operation, node.width, out, adjoint, second=self._slopes[position], adds=adds)

    def _pull_back_term(self, term: Term, width: int, adjoint: int, common: NDArray[np.float32] | None) -> None:
        if term.argument not in self._adjoints and (image := _image(term.operator, common)) is not None:
            self._fill(term.argument, image)
            return
        out, adds = self._adjoint(term.argument)
        self._common.pop(term.argument, None)
        if isinstance(term.operator, Dense):
            self._product(term.operator.transposed, out, adjoint, adds=adds)
        else:
            self._linear(term.operator, width, out, adjoint, adds=adds)

    def _fill(self, position: int, numbers: NDArray[np.float32]) -> None:
        """Begin a node's adjoint with what is the same for all rows."""
        self._common[position] = numbers
        self._write(Operation.FILL, numbers.size, self._adjoint(position)[0], bias=self._constant(numbers))

    def _adjoint(self, position: int) -> tuple[int, bool]:
        """Return the place of a node's adjoint, and whether there is something in it already."""
        if position in self._adjoints:
            return self._adjoints[position], True
        place = GRADIENT if position == 0 else self._buffers.new(self._program.nodes[position].width)
        self._adjoints[position] = place
        return place, False

    # -------------------------------------------------------------------------------------------------------- within
    def _constant(self, values: NDArray[np.floating]) -> int:
        """Return the address of float32 numbers that the plan keeps."""
        array = np.ascontiguousarray(values, np.float32)
        self._constants.append(array)
        return array.ctypes.data

    def _write(
        self, operation: Operation, width: int, out: int, first: int = NOWHERE, *, adds: bool = False, **fields: float
    ) -> None:
        step = {"second": NOWHERE, "slope": NOWHERE, "depth": 0, "numbers": 0, "bias": 0, "parameter": 0.0} | fields
        step |= {"operation": operation, "width": width, "first": first, "out": out, "accumulates": adds}
        self._steps.append(step)

    def finish(self) -> Plan:
        """Return the plan, every buffer with its place."""
        written = joined(self._steps)
        used = [[int(step[name]) for name in ("first", "second", "out", "slope")] for step in written]
        places, scratch_width = self._buffers.placed(used)
        steps = np.zeros(len(written), STEP)
        for number, step in enumerate(written):
            for name, value in step.items():
                is_place = name in ("first", "second", "out", "slope")
                steps[name][number] = places.get(int(value), value) if is_place else value
        return Plan(steps, tuple(self._constants), scratch_width)


def _image(operator: Operator, numbers: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return what the reverse of an operator makes of numbers, as the kernel computes it, or None: the kernel is to."""
    if numbers is None:
        return None
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        match operator:
            case Dense() if numbers.size == 1:
                row: NDArray[np.float32] = numbers * operator.transposed[0].astype(np.float32) + np.float32(0.0)
                return row
            case Identity():
                return numbers
            case Scale():
                scaled: NDArray[np.float32] = numbers * np.broadcast_to(operator.coefficients, numbers.shape).astype(
                    np.float32
                )
                return scaled
            case _:
                return None
