"""ONNX's own backend tests: none fails, and what convkit promises to know is supported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx_standard

# Operators of convolutional networks: every test of them that uses neither strings, nor floats
# of eight bits, nor training passes.
PROMISED = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvTranspose DepthToSpace DequantizeLinear Div Dropout Einsum Elu
    Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad
    Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape
    Shrink Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Swish Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor""".split()
FOREIGN = re.compile(
    r"tensors of (STRING|FLOAT8|FLOAT4)|Dropout in training|is an? (optional|sequence)")


@pytest.fixture(scope="module")
def outcomes():
    return onnx_standard.run()


def test_none_fails(outcomes):
    failed = {name: why for o in outcomes.values() for name, why in o.failed.items()}
    assert not failed


def test_the_converted_networks_all_pass(outcomes):
    for kind in ("PyTorchConvertedModel", "PyTorchOperatorModel"):
        assert not outcomes[kind].unsupported
    assert len(outcomes["PyTorchConvertedModel"].passed) >= 80


def test_every_test_of_the_promised_operators_passes(outcomes):
    names = "|".join(map(re.escape, PROMISED))
    missing = {name: why for name, why in outcomes["NodeModel"].unsupported.items()
               if re.search(rf"(^|: |; )({names})(:| \()", why) and not FOREIGN.search(why)}
    assert not missing
    assert len(outcomes["NodeModel"].passed) > 1000


def test_the_document_has_the_table(outcomes):
    import onnx

    text = (Path(__file__).parent.parent / "docs" / "onnx.md").read_text()
    if f"With onnx {onnx.__version__} " not in text:
        pytest.skip(f"docs/onnx.md is about another version than {onnx.__version__}")
    assert onnx_standard.table(outcomes) in text, (
        "run: python tests/onnx_standard.py --write docs/onnx.md")
