"""Sums of quantised values done by the step of the layer before: bits are those of two steps."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_op, run_python
from test_quantised_ops import some

import convkit as ck
from convkit._kernels import dispatch
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.infer.schema import complete
from convkit.infer.verify import infer_node
from convkit.ops.op import REGISTRY

ENDS = [
    ("uint8", "uint8", {"dtype": "uint8", "y_scale": 0.05, "y_zero": 120}),
    ("int8", "uint8", {"dtype": "uint8", "y_scale": 0.06, "y_zero": 0, "activation": "relu"}),
    ("uint8", "int8", {"dtype": "int8", "y_scale": 0.04, "y_zero": -9, "activation": "leaky_relu",
                       "activation_args": (0.1,)}),
    ("int8", "int8", {"dtype": "float32", "activation": "relu6"}),
]
ZERO = {"uint8": 131, "int8": -3}


class Net:
    """A graph of quantised operations, and the same operations one by one."""

    def __init__(self):
        self.values, self.constants, self.nodes, self.inputs, self.arrays = {}, {}, [], [], {}

    def _new(self, value):
        number = len(self.values)
        self.values[number] = value
        return number

    def given(self, array):
        number = self._new(Value((ck.infer.BatchDim(), *array.shape[1:]), array.dtype.name))
        self.inputs.append(number)
        self.arrays[number] = array
        return number

    def constant(self, array):
        number = self._new(Value(array.shape, array.dtype.name))
        self.constants[number] = Constant(f"c{number}", array)
        self.arrays[number] = array
        return number

    def node(self, op, *inputs, **attrs):
        node = Node(op, inputs, (len(self.values),), complete(op, attrs))
        (value,) = infer_node(node, [self.values[v] for v in inputs])
        number = self._new(value)
        self.nodes.append(node)
        self.arrays[number] = run_op(REGISTRY[op], [self.arrays[v] for v in inputs], node.attrs,
                                     (), None).outputs[0]
        return number

    def layer(self, rng, x, out, kernel=3, dtype="uint8", **attrs):
        channels = self.values[x].shape[1]
        groups = attrs.pop("groups", 1)
        shape = (out, channels // groups) + ((kernel, kernel) if kernel else ())
        numbers = [x, self.constant(some(rng, shape, np.int8)),
                   self.constant(rng.uniform(1e-3, 3e-3, out).astype(np.float32)),
                   self.constant(rng.integers(-3000, 3000, out, np.int32))]
        geometry = {"stride": (1, 1), "padding": ((kernel // 2,) * 2,) * 2, "dilation": (1, 1),
                    "groups": groups} if kernel else {}
        return self.node("quant_conv" if kernel else "quant_linear", *numbers, **{
            **geometry, "x_scale": 0.02, "x_zero": 7, "dtype": dtype, "y_scale": 0.008,
            "y_zero": ZERO[dtype], **attrs})

    def add(self, a, b, **attrs):
        zeros = {f"{k}_zero": ZERO[self.values[v].dtype] for k, v in (("a", a), ("b", b))}
        return self.node("quant_add", a, b, **{"a_scale": 0.03, "b_scale": 0.021, **zeros,
                                               **attrs})

    def check(self, fused, *outputs):
        """Compare a Program with the operations, and count the nodes without a step."""
        graph = Graph(tuple(Port(f"in{i}", i) for i in self.inputs), self.constants,
                      tuple(self.nodes), tuple(Port(f"out{i}", i) for i in outputs), self.values,
                      "tuple")
        ck.infer.verify(graph)
        given = tuple(self.arrays[i] for i in self.inputs)
        for threads in (1, 2):
            program = ck.infer.Program(graph, threads)
            results = program.run(given)
            for number, result in zip(outputs, results, strict=True):
                assert_same_bits(np.ascontiguousarray(result),
                                 np.ascontiguousarray(self.arrays[number]), f"out{number}")
        done = [row.algorithm for row in program.profile(given, repeats=1).nodes].count("fused")
        assert done == fused


def shapes():
    """Return (input shape, output channels, kernel): whole vectors and parts of them; linear."""
    return [((2, 5, 6, 7), 33, 3), ((1, 16, 7, 7), 64, 1), ((3, 8, 5, 5), 16, 3),
            ((2, 6, 3, 5), 7, 1), ((5, 70), 33, 0)]


@pytest.mark.parametrize("own, other, end", ENDS, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("first", [True, False], ids=["layer first", "layer second"])
def test_sum_of_a_layer_and_a_value(rng, own, other, end, first):
    for shape, out, kernel in shapes():
        for activation in (None, "relu"):
            net = Net()
            x = net.given(some(rng, shape, "uint8"))
            r = net.given(some(rng, (shape[0], out, *shape[2:]), other))
            y = net.layer(rng, x, out, kernel, own, activation=activation)
            at_bounds = np.isin(net.arrays[y], [np.iinfo(own).min, np.iinfo(own).max]).mean()
            assert 0.01 < at_bounds < 0.9
            net.check(1, net.add(*((y, r) if first else (r, y)), **end))


def test_sum_of_two_layers_is_done_by_the_later(rng):
    net = Net()
    x = net.given(some(rng, (2, 5, 6, 7), "uint8"))
    a, b = net.layer(rng, x, 33, 1), net.layer(rng, x, 33, 3, "int8")
    net.check(1, net.add(a, b, **ENDS[0][2]))
    net.check(0, net.nodes[-1].outputs[0], b)     # somebody else reads the later


def test_sums_that_stay_steps_of_their_own(rng):
    def net_of(**attrs):
        net = Net()
        net.x = net.given(some(rng, (2, 8, 6, 7), "uint8"))
        net.r = net.given(some(rng, (2, 8, 6, 7), "uint8"))
        net.y = net.layer(rng, net.x, 8, **attrs)
        return net

    net = net_of(activation="leaky_relu", activation_args=(0.2,))
    net.check(0, net.add(net.y, net.r, **ENDS[0][2]))
    net = net_of(groups=8)
    net.check(0, net.add(net.y, net.r, **ENDS[0][2]))
    net = net_of()
    net.check(0, net.add(net.y, net.r, **ENDS[0][2], a_zero=ZERO["uint8"] + 1))
    net = net_of()
    later = net.node("max_pool", net.r, kernel_size=(1, 1), stride=(1, 1), padding=(0, 0),
                     dilation=(1, 1))
    net.check(0, net.add(net.y, later, **ENDS[0][2]))
    net = net_of()
    net.check(0, net.add(net.y, net.y, **ENDS[0][2]))


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_other_instruction_sets(isa):
    run_python("""
        import numpy as np
        from test_fused_sums import ENDS, test_sum_of_a_layer_and_a_value
        for own, other, end in ENDS:
            for first in (True, False):
                test_sum_of_a_layer_and_a_value(np.random.default_rng(0), own, other, end, first)
    """, {"CONVKIT_ISA": isa})
