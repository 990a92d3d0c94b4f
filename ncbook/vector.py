"""Loops over vector registers that numba's compiler does not find by itself: small matrix products, constant matrices, transposition.

The last axis of every array is one *line* of 64 bytes, 16 float32 or 8 float64 numbers: one register with AVX-512, two without. What is
computed is the same with both, to the last digit. An operand is an array and the index at which it begins, as in
`(array, (s, c, row, 0))`, and no view: numba counts references to views, which costs more than the loops.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

LINE_BYTES = 64
_WIDE = "+avx512f" in (config.CPU_FEATURES or get_host_cpu_features())
_HALF = LINE_BYTES // 2
_REGISTER = LINE_BYTES if _WIDE else _HALF
_PARTS = LINE_BYTES // _REGISTER
ROWS = 8 if _WIDE else 6
"""How many lines of a matrix product are summed at once: 6 fill the sixteen registers there are without AVX-512; with it more than 8 would
fit, but not their addresses."""
_CONTRACT = ("contract",)  # a product and a sum may become one instruction
_AS_WRITTEN = ("arcp",)  # speaks of divisions only: without a flag numba gives all of `kernels._jit`, regrouping among them
_INT = ir.IntType(64)


class _Emitter:
    """The vector type of an array's elements, and addresses, loads and stores by the array's strides."""

    def __init__(self, context, builder, kind, register: int = _REGISTER) -> None:
        self.context, self.builder = context, builder
        self.size = kind.dtype.bitwidth // 8
        self.element = context.get_value_type(kind.dtype)
        self.lanes = register // self.size
        self.vector = ir.VectorType(self.element, self.lanes)

    def operand(self, kind, array, index):
        """Address of `array[index]`, and the strides in bytes."""
        array = self.context.make_array(kind)(self.context, self.builder, array)
        strides = cgutils.unpack_tuple(self.builder, array.strides)
        start = self.builder.ptrtoint(array.data, _INT)
        return self.at(start, *zip(cgutils.unpack_tuple(self.builder, index), strides)), strides

    def at(self, address, *steps):
        """The address moved by pairs (how often, bytes), each a number or a value."""
        for pair in steps:
            count, stride = (_INT(part) if isinstance(part, int) else part for part in pair)
            address = self.builder.add(address, self.builder.mul(count, stride))
        return address

    def load(self, kind, address):
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = self.size
        return value

    def store(self, value, address) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = self.size

    def shuffle(self, a, b, order: Sequence[int]):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))

    def fill(self, scalar):
        """A vector of equal elements."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, scalar, ir.IntType(32)(0)), undefined, [0] * self.lanes)

    def add_product(self, total, x, y):
        return self.builder.fadd(total, self.builder.fmul(x, y, flags=_CONTRACT), flags=_CONTRACT)

    def combine(self, factors: Sequence[float], xs):
        """The sum of constant factors times xs."""
        total = None
        for factor, x in zip(factors, xs):
            constant = ir.Constant(self.vector, [self.element(factor)] * self.lanes)
            if factor and total is None:
                total = x if factor == 1 else self.builder.fmul(x, constant, flags=_AS_WRITTEN)
            elif abs(factor) == 1:
                total = (self.builder.fadd if factor > 0 else self.builder.fsub)(total, x, flags=_AS_WRITTEN)
            elif factor:
                total = self.add_product(total, x, constant)
        return total


@intrinsic
def multiply(typing, a, at_a, b, at_b, c, at_c, rows, steps, add):
    """c = a @ b, added to c if `add`: a `[rows, steps]`, b `[steps, line]`, c `[rows, line]`."""

    def code(context, builder, signature, values):
        e = _Emitter(context, builder, signature.args[0])
        rows, steps, add = values[6:]
        operands = [e.operand(signature.args[i], *values[i : i + 2]) for i in (0, 2, 4)]
        row, step = operands[0][1][len(signature.args[1]) - 1 :]
        (a, _), (b, (*_, b_row, _)), (c, (*_, c_row, _)) = operands

        def block(size: int, first) -> None:
            left, cells = e.at(a, (first, row)), [(r, q) for r in range(size) for q in range(_PARTS)]
            target = {(r, q): e.at(c, (first, c_row), (r, c_row), (q, _REGISTER)) for r, q in cells}
            sums = {cell: cgutils.alloca_once(builder, e.vector) for cell in cells}
            with builder.if_else(add) as (added, fresh):
                with added:
                    for cell in cells:
                        builder.store(e.load(e.vector, target[cell]), sums[cell])
                with fresh:
                    for cell in cells:
                        builder.store(ir.Constant(e.vector, None), sums[cell])
            with cgutils.for_range(builder, steps, intp=_INT) as loop:
                right = [e.load(e.vector, e.at(b, (loop.index, b_row), (q, _REGISTER))) for q in range(_PARTS)]
                for r in range(size):
                    factor = e.fill(e.load(e.element, e.at(left, (loop.index, step), (r, row))))
                    for q in range(_PARTS):
                        builder.store(e.add_product(builder.load(sums[r, q]), factor, right[q]), sums[r, q])
            for cell in cells:
                e.store(builder.load(sums[cell]), target[cell])

        whole = builder.udiv(rows, _INT(ROWS))
        with cgutils.for_range(builder, whole, intp=_INT) as loop:
            block(ROWS, builder.mul(loop.index, _INT(ROWS)))
        done = builder.mul(whole, _INT(ROWS))
        rest = builder.sub(rows, done)
        for size in (4, 2, 1):
            with builder.if_then(builder.icmp_unsigned("!=", builder.and_(rest, _INT(size)), _INT(0))):
                block(size, builder.add(done, builder.and_(rest, _INT(-2 * size))))
        return context.get_dummy_value()

    return types.void(a, at_a, b, at_b, c, at_c, types.int64, types.int64, types.boolean), code


def transform(matrix: Sequence[Sequence[float]], source_axes: tuple[int, int], target_axes: tuple[int, int], ragged: str) -> Callable:
    """A compiled `f(source, at, target, at, lines, first, count, spare)`: target = matrix @ source along the first axis named, for lines
    along the second.

    Row j of the array that `ragged` names ("source" or "target") exists where 0 <= first + j < count; elsewhere `spare`, one line,
    is read or written.
    """

    @intrinsic
    def apply(typing, source, at_source, target, at_target, lines, first, count, spare):
        def code(context, builder, signature, values):
            e = _Emitter(context, builder, signature.args[0])
            (source, s), (target, t) = (e.operand(signature.args[i], *values[i : i + 2]) for i in (0, 2))
            (s_row, s_line), (t_row, t_line) = (s[axis] for axis in source_axes), (t[axis] for axis in target_axes)
            lines, first, count = values[4:7]
            spare = builder.ptrtoint(context.make_array(signature.args[7])(context, builder, values[7]).data, _INT)

            def rows(name: str, number: int, start, stride, part):
                """Addresses of this part of a line in each row."""
                inside = [e.at(start, (j, stride)) for j in range(number)]
                if name != ragged:
                    return inside
                # compared without sign, a negative number is too large
                exists = [builder.icmp_unsigned("<", builder.add(first, _INT(j)), count) for j in range(number)]
                return [builder.select(*which, e.at(spare, (part, _REGISTER))) for which in zip(exists, inside)]

            with cgutils.for_range(builder, lines, intp=_INT) as loop:
                for q in range(_PARTS):
                    start, end = (e.at(place, (loop.index, step), (q, _REGISTER)) for place, step in ((source, s_line), (target, t_line)))
                    xs = [e.load(e.vector, row) for row in rows("source", len(matrix[0]), start, s_row, q)]
                    for factors, row in zip(matrix, rows("target", len(matrix), end, t_row, q)):
                        e.store(e.combine(factors, xs), row)
            return context.get_dummy_value()

        return types.void(source, at_source, target, at_target, types.int64, types.int64, types.int64, spare), code

    return apply


def transpose(source_axes: tuple[int, int], target_axes: tuple[int, int]) -> Callable:
    """A compiled `f(source, at, target, at, lines)`: half a line's number of source rows become columns of target.

    Axes: the rows and the lines of source, the lines of target and the positions in a line of source.
    """

    @intrinsic
    def apply(typing, source, at_source, target, at_target, lines):
        def code(context, builder, signature, values):
            e = _Emitter(context, builder, signature.args[0], _HALF)
            (source, s), (target, t) = (e.operand(signature.args[i], *values[i : i + 2]) for i in (0, 2))
            (s_row, s_line), (t_line, t_row) = (s[axis] for axis in source_axes), (t[axis] for axis in target_axes)
            half = e.lanes // 2
            with cgutils.for_range(builder, values[4], intp=_INT) as loop:
                for q in range(2):
                    start = e.at(source, (loop.index, s_line), (q, _HALF))
                    end = e.at(target, (loop.index, t_line), (q * e.lanes, t_row))
                    rows = [e.load(e.vector, e.at(start, (r, s_row))) for r in range(e.lanes)]
                    for _ in range(e.lanes.bit_length() - 1):  # each round interleaves row r with row r + half
                        parts = [[x for lane in range(first, first + half) for x in (lane, lane + e.lanes)] for first in (0, half)]
                        rows = [e.shuffle(rows[r], rows[r + half], order) for r in range(half) for order in parts]
                    for r, row in enumerate(rows):
                        e.store(row, e.at(end, (r, t_row)))
            return context.get_dummy_value()

        return types.void(source, at_source, target, at_target, types.int64), code

    return apply
