"""A run's report: one HTML file with curves, confusion matrix, worst mistakes and the model."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convkit import __version__
from convkit.extras import require
from convkit.io.atomic import write_atomically
from convkit.training import metrics
from convkit.training.monitor import LayerMonitor

__all__ = ["write_report"]

# A confusion matrix with more classes than this would not fit on a page.
MAX_CLASSES = 40

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }}
h2 {{ font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .15rem .6rem; text-align: right; font-weight: normal;
         white-space: nowrap; }}
th:first-child {{ text-align: left; }}
.confusion td, .confusion th {{ padding: .2rem .45rem; min-width: 1.6rem; text-align: right; }}
.wide {{ overflow-x: auto; }}
.settings td {{ text-align: left; white-space: normal; overflow-wrap: anywhere; }}
.settings th {{ text-align: left; color: #666; vertical-align: top; }}
.images {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
figure {{ margin: 0; width: 8rem; font-size: .8rem; }}
figure img {{ width: 7rem; height: 7rem; object-fit: contain; image-rendering: pixelated;
             background: #eee; }}
figcaption {{ line-height: 1.3; }}
pre {{ font-size: .78rem; line-height: 1.35; overflow-x: auto; background: #f6f6f6;
      padding: .8rem; }}
svg {{ max-width: 100%; min-width: 36rem; height: auto; }}
.note {{ color: #666; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="note">{subtitle}</p>
{body}
</body>
</html>
"""


def write_report(path: Any, history: Sequence[Mapping[str, Any]], *,
                 dataset: Any = None, scores: Any = None, targets: Any = None,
                 classes: Sequence[str] | None = None, program: Any = None,
                 monitor: LayerMonitor | None = None, settings: Mapping[str, Any] | None = None,
                 title: str = "Training run", mistakes: int = 24) -> Path:
    """Write a page about a run that needs nothing but itself.

    Parameters
    ----------
    path : path_like
        The file.
    history : sequence of dict
        ``Trainer.history``.
    dataset : Dataset, optional
        Whose samples' first entries are the images that were scored, to show mistakes of.
    scores, targets : array_like, optional
        Shape (N, classes) and (N,), as `predict_with_targets` gives them for `dataset` in
        order; without them there are neither confusion matrix nor mistakes.
    classes : sequence of str, optional
        The classes' names; ``dataset.classes`` or numbers by default.
    program : Program, optional
        The compiled network, for the table of its steps.
    monitor : LayerMonitor, optional
        Of the run, for a table of norms and update ratios by layer.
    settings : mapping, optional
        What the run was made with, shown as a table.
    title : str
        The page's heading.
    mistakes : int
        How many of the worst mistakes are shown.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        When matplotlib, Pillow or scikit-learn is not installed.
    """
    sections = []
    if settings:
        sections.append(("Settings", _table("settings", [], settings.items())))
    if history:
        sections += [("Curves", _wide(_curves(history))), ("Epochs", _wide(_epochs(history)))]
    if scores is not None and targets is not None:
        scores, targets = np.asarray(scores), np.asarray(targets)
        names = classes or getattr(dataset, "classes", None) or range(scores.shape[1])
        names = [str(name) for name in names]
        sections.append(("Confusion matrix", _wide(_confusion(scores, targets, names))))
        if dataset is not None:
            sections.append(("Worst mistakes", _mistakes(dataset, scores, targets, names,
                                                         mistakes)))
    if monitor is not None and monitor.records:
        sections.append(("Layers", _wide(_layers(monitor))))
    if program is not None:
        sections.append(("Model", f"<pre>{html.escape(program.summary())}</pre>"))
    body = "\n".join(f"<h2>{heading}</h2>\n{content}" for heading, content in sections)
    path = Path(path)
    page = PAGE.format(title=html.escape(title), subtitle=_subtitle(history), body=body)
    write_atomically(path, [page.encode()])
    return path


def _subtitle(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the run's last figures in words."""
    parts = []
    if history:
        last = history[-1]
        parts.append(f"{last['epoch']} epochs, {last['step']:,} steps, "
                     f"{sum(r['seconds'] for r in history):,.0f} s of training")
        for key in ("loss", "accuracy"):
            if last.get(f"val_{key}") is not None:
                parts.append(f"validation {key} {_number(last[f'val_{key}'])}")
    return " · ".join([*parts, f"convkit {__version__}"])


def _wide(content: str) -> str:
    """Return content that scrolls by itself where the page is narrower."""
    return f'<div class="wide">\n{content}\n</div>'


def _table(kind: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table whose rows begin with a heading each."""
    lines = [f'<table class="{kind}">']
    if header:
        lines.append("<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header)
                     + "</tr>")
    for first, *rest in rows:
        lines.append(f"<tr><th>{_number(first)}</th>"
                     + "".join(f"<td>{_number(value)}</td>" for value in rest) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _number(value: Any) -> str:
    """Return a value as text for a cell."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def _epochs(history: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for record in history for name in record
                                 if "/" not in name))  # those of single layers
    return _table("epochs", columns, ([r.get(name) for name in columns] for r in history))


def _layers(monitor: LayerMonitor) -> str:
    """Return the newest norms and update ratios, and the shares of dead units."""
    newest = monitor.records[-1]
    columns = ("weight_norm", "grad_norm", "update_ratio")
    text = f'<p class="note">At step {newest["step"]:,}.</p>\n' + _table(
        "layers", ["parameter", "norm", "gradient's norm", "update / norm"],
        ([name, *(figures[c] for c in columns)] for name, figures in newest["layers"].items()))
    if monitor.dead_relus:
        text += "\n<p></p>\n" + _table("layers", ["ReLU", "dead units"],
                                       monitor.dead_relus.items())
    return text


# -- curves ---------------------------------------------------------------------------------


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Return loss, accuracy and learning rate over the epochs, as one SVG."""
    plots = [("loss", [("loss", "training"), ("val_loss", "validation")]),
             ("accuracy", [("accuracy", "training"), ("val_accuracy", "validation")]),
             ("learning rate", [("lr", "")])]
    plots = [p for p in plots if any(r.get(key) is not None for r in history for key, _ in p[1])]
    figure_module = require("matplotlib.figure", "report", "a report")
    matplotlib = require("matplotlib", "report", "a report")
    settings = {"svg.fonttype": "none", "svg.hashsalt": "convkit", "font.family": "sans-serif",
                "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings):
        figure = figure_module.Figure(figsize=(3.3 * len(plots), 2.7), layout="constrained")
        axes = figure.subplots(1, len(plots), squeeze=False)[0]
        for axis, (name, lines) in zip(axes, plots, strict=True):
            for key, label in lines:
                points = [(r["epoch"], r[key]) for r in history if r.get(key) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), marker=".", label=label)
            axis.set_title(name)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            if len(axis.lines) > 1:
                axis.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg"):]


# -- what is wrong --------------------------------------------------------------------------


def _confusion(scores: np.ndarray, targets: np.ndarray, names: list[str]) -> str:
    """Return counts by class and prediction, or the commonest mistakes of many classes."""
    counts = metrics.confusion_matrix(targets, scores)
    right = int(np.trace(counts))
    text = (f"<p>{right:,} of {len(targets):,} are right ({right / len(targets):.2%}). ")
    if len(names) > MAX_CLASSES:
        return text + f"The commonest mistakes:</p>\n{_commonest(counts, names)}"
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    lines = [text + "Rows are the true classes, columns the predictions.</p>",
             '<table class="confusion">',
             "<tr><th></th>" + "".join(f"<th>{html.escape(n)}</th>" for n in names)
             + "<th>recall</th></tr>"]
    for i, name in enumerate(names):
        cells = []
        for j, count in enumerate(counts[i]):
            colour = "46, 125, 50" if i == j else "198, 40, 40"
            strength = shares[i, j] if i == j else min(1.0, 5 * shares[i, j])
            cells.append(f'<td style="background: rgba({colour}, {0.75 * strength:.3f})">'
                         f"{count or ''}</td>")
        lines.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}"
                     f"<td>{shares[i, i]:.1%}</td></tr>")
    precision = np.diag(counts) / np.maximum(1, counts.sum(axis=0))
    lines.append("<tr><th>precision</th>" + "".join(f"<td>{p:.1%}</td>" for p in precision)
                 + "<td></td></tr></table>")
    return "\n".join(lines)


def _commonest(counts: np.ndarray, names: list[str], most: int = 30) -> str:
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(i, wrong.shape) for i in order]
    return _table("pairs", ["class", "taken for", "times"],
                  ((names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]))


def _mistakes(dataset: Any, scores: np.ndarray, targets: np.ndarray, names: list[str],
              most: int) -> str:
    """Return the images whose true class got the lowest probability, the worst first."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    guesses = scores.argmax(axis=1)
    wrong = np.flatnonzero(guesses != targets)
    worst = wrong[np.argsort(logs[wrong, targets[wrong]], kind="stable")][:most]
    if not len(worst):
        return "<p>There are none.</p>"
    figures = []
    for i in worst:
        target, guess = int(targets[i]), int(guesses[i])
        figures.append(
            f'<figure><img alt="sample {i}" src="data:image/png;base64,{_png(dataset, int(i))}">'
            f"<figcaption><b>{html.escape(names[target])}</b> {np.exp(logs[i, target]):.2%}<br>"
            f"taken for <b>{html.escape(names[guess])}</b> {np.exp(logs[i, guess]):.2%}"
            f"</figcaption></figure>")
    return ('<p class="note">The true class and its probability, and what was predicted.</p>\n'
            f'<div class="images">{"".join(figures)}</div>')


def _png(dataset: Any, index: int) -> str:
    """Return one sample's image as a PNG in base64."""
    image_module = require("PIL.Image", "report", "a report")
    image = np.asarray(dataset.images[index] if hasattr(dataset, "images") else dataset[index][0])
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) / ((high - low) or 1) * 255).round().astype(np.uint8)
    pixels = np.moveaxis(image, 0, -1)
    pixels = pixels[..., 0] if pixels.shape[-1] != 3 else pixels
    file = io.BytesIO()
    image_module.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
