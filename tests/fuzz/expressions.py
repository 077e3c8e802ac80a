"""Random expressions compiled: Programs, .ckit and ONNX files beside the tensors' own results."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import convkit_library, numbers
from fuzz.onnx_peer import onnxruntime_result
from fuzz.steps import Expression, draw_expression
from fuzz.trials import Failure, SetAside, allowed, close, error, main, same

NEEDS = ("onnx",)
BATCH = 3
SHAPES = ((4, 6, 5), (3, 8), (5,), (2, 3, 4, 3), (6, 4, 4), (1,))


class Model(ck.nn.Module):
    """An expression as a network."""

    def __init__(self, expression: Expression):
        super().__init__()
        self.expression = expression

    def forward(self, *given: ck.Tensor) -> Any:
        """Return what nothing else reads."""
        values = self.expression.run(convkit_library(), list(given))
        made = tuple(values[i] for i in self.expression.results())
        return made if len(made) > 1 else made[0]


def draw(seed: int) -> Expression:
    """Draw an expression of one to three inputs with the batch first."""
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    given = [shape]
    while len(given) < 3 and rng.random() < 0.3:
        given.append(tuple(rng.choice((n, 1)) for n in shape))
    return draw_expression(seed, tuple((BATCH, *s) for s in given), rng.randint(2, 12), 1,
                           frozenset({"detach"}), 20_000)


def judge(expression: Expression) -> None:
    """Compare Programs and files with the results of the tensors."""
    if not expression.steps:
        raise SetAside("no step fitted")
    ck.set_num_threads(random.Random(expression.seed + 5).choice((1, 2)))
    given = [numbers(expression.seed + i, *shape) for i, shape in enumerate(expression.given)]
    model = Model(expression).eval()
    with ck.no_grad():
        want = _arrays(model(*[ck.Tensor(x) for x in given]))
    shapes = [(1, *x.shape[1:]) for x in given]
    program = ck.compile(model, shapes if len(shapes) > 1 else shapes[0], check=False)
    got = _arrays(program(*given))
    _near("Program", got, want, expression)
    _near("Program, a sample alone", _arrays(program(*[x[:1] for x in given])),
          [y[:1] for y in want], expression)
    with ck.threads(3):
        _same("Program, 3 threads", _arrays(program(*given)), got)
    with tempfile.TemporaryDirectory() as folder:
        ck.save(program, Path(folder) / "a.ckit")
        _same(".ckit file", _arrays(ck.load(Path(folder) / "a.ckit")(*given)), got)
        if expression.seed % 3 == 0:
            _onnx_file(program, given, want, expression, Path(folder) / "a.onnx")


def _onnx_file(program: Any, given: list[np.ndarray], want: list[np.ndarray],
               expression: Expression, path: Path) -> None:
    ck.io.onnx.save(program, path)
    peer = onnxruntime_result(path, *given)
    if peer is not None:
        _near("ONNX file in onnxruntime", _arrays(peer), want, expression)
    again = ck.compile(ck.io.onnx.load(path), check=False)
    _near("ONNX file read again", _arrays(again(*given)), want, expression)


def _arrays(made: Any) -> list[np.ndarray]:
    return [np.asarray(y) for y in (made if isinstance(made, (tuple, list)) else (made,))]


def _same(what: str, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for number, arrays in enumerate(zip(got, want, strict=True)):
        same(f"{what}, output {number}", *arrays)


def _near(what: str, got: list[np.ndarray], want: list[np.ndarray], expression: Expression) -> None:
    """Compare outputs; where rounding decides, a twentieth of the numbers may be far off."""
    for number, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        off = error(ours, theirs)
        if expression.jumps and off > allowed("call"):
            if np.mean(~np.isclose(ours, theirs, rtol=1e-3, atol=1e-3)) > 0.05:
                raise Failure(f"{what}, output {number}: off by {off:.2e}")
        else:
            close(f"{what}, output {number}", ours, theirs, 10 * allowed("call"))


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
