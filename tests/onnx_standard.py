"""ONNX's standard backend tests against `convkit.io.onnx.Backend`, counted and explained.

``python tests/onnx_standard.py`` prints the table, ``--write docs/onnx.md`` puts it there
between its markers. The tests come with the onnx package and need no network; those of whole
networks, which would be downloaded, are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
import unittest
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from convkit.errors import UnsupportedOperatorError

KINDS = {"NodeModel": "single operators", "SimpleModel": "small models",
         "PyTorchConvertedModel": "converted from PyTorch's layers",
         "PyTorchOperatorModel": "converted from PyTorch's operators"}
START, END = "<!-- standard tests: begin -->", "<!-- standard tests: end -->"


@dataclass
class Outcome:
    """What became of one kind of test."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)


class _Result(unittest.TestResult):
    """Sorts tests into passed, failed and not supported."""

    def __init__(self, outcome: Outcome):
        super().__init__()
        self.outcome = outcome

    def addSuccess(self, test):
        self.outcome.passed.append(_name(test))

    def addError(self, test, err):
        if isinstance(err[1], UnsupportedOperatorError):
            self.outcome.unsupported[_name(test)] = str(err[1])
        else:
            self.outcome.failed[_name(test)] = f"{err[0].__name__}: {err[1]}"

    addFailure = addError


def _name(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2].removesuffix("_cpu")


def run() -> dict[str, Outcome]:
    """Run every test that needs no network; return the outcome by kind."""
    from convkit.io.onnx import Backend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test import BackendTest

        cases = BackendTest(Backend, __name__).test_cases
        outcomes = {}
        for kind in KINDS:
            outcomes[kind] = Outcome()
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(
                cases[f"OnnxBackend{kind}Test"])
            suite.run(_Result(outcomes[kind]))
    return outcomes


def reasons(outcome: Outcome) -> list[tuple[int, str]]:
    """Return why tests are not supported, in order of how many."""
    count: Counter[str] = Counter()
    for text in outcome.unsupported.values():
        text = re.sub(r" \(\d+: [^;]*\)", "", text.removeprefix("not supported: "))
        text = re.sub(r"input '\w+' is an? (\w+), .*", r"inputs that are of type \1", text)
        for part in {re.sub(r"tensors of (FLOAT\d\w+)", "floats of eight bits or fewer", p)
                     for p in text.split("; ")}:
            count[part.replace("tensors of STRING", "strings")] += 1
    return sorted(((n, why) for why, n in count.items()), key=lambda r: (-r[0], r[1]))


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the results as Markdown."""
    import onnx

    lines = [f"With onnx {onnx.__version__} (operator set {onnx.defs.onnx_opset_version()}):", "",
             "| tests | passed | failed | not supported |", "| --- | --- | --- | --- |"]
    for kind, name in KINDS.items():
        o = outcomes[kind]
        lines.append(f"| {name} | {len(o.passed)} | {len(o.failed)} | {len(o.unsupported)} |")
    groups: dict[int, list[str]] = defaultdict(list)
    for kind in KINDS:
        for n, why in reasons(outcomes[kind]):
            groups[n].append(why)
    lines += ["", "What the tests that are not supported need (a test may need several):", "",
              "| tests | operators or types |", "| --- | --- |"]
    lines += [f"| {n} | {', '.join(sorted(set(whys)))} |" for n, whys in
              sorted(groups.items(), reverse=True)]
    for kind, name in KINDS.items():
        lines += [f"\nFailed ({name}): {test}: {why[:200]}" for test, why in
                  outcomes[kind].failed.items()]
    return "\n".join(lines)


def main() -> int:
    """Run the tests; print the table, or write it into a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", metavar="FILE", help="a document with the markers")
    args = parser.parse_args()
    outcomes = run()
    text = table(outcomes)
    if args.write:
        path = Path(args.write)
        before, _, rest = path.read_text().partition(START)
        path.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        print(text)
    return any(o.failed for o in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
