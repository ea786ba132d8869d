"""Pictures of a run: learning curves, and what a report says of right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.output import write_whole

_TRAINING, _VALIDATION, _REST = "#8fb3d9", "#d1495b", "#5c6b7a"
_NOT_CURVES = {"step", "learning_rate", "tokens", "real_tokens_per_second"}
_MOST_CURVES = 4  # metrics beside the loss
_MOST_CLASSES = 60  # more would be unreadable
_MOST_NUMBERED = 25  # classes whose cells have room for a number


def draw_learning_curves(lines: Sequence[dict[str, Any]], directory: Path) -> None:
    """Draws the lines of metrics.jsonl as `learning_curves.png`: loss, the other metrics, learning rate and speed."""
    if not lines:
        return
    training = [line for line in lines if "learning_rate" in line]
    validation = [line for line in lines if "learning_rate" not in line]
    names = [name for name in _curves(training, validation) if name != "loss"][:_MOST_CURVES]
    panels = ["loss", *names, "learning_rate", "real_tokens_per_second"]
    titles = {"learning_rate": "learning rate", "real_tokens_per_second": "real tokens per second"}
    columns = 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(10, 3.4 * rows), layout="constrained")
    for index, name in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        color = _TRAINING if name not in titles else _REST
        _draw_curve(axes, training, name, color, "training", smooth=name not in titles)
        _draw_points(axes, validation, f"validation_{name}")
        axes.set_title(titles.get(name, name.replace("_", " ")), fontsize=11, loc="left")
        _plain(axes)
        if name in titles:
            axes.set_ylim(bottom=0)
        elif axes.lines:
            axes.legend(frameon=False, fontsize=9)
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axes.set_xlabel("step", fontsize=9)
        axes.set_xlim(left=0)
    _save(figure, directory / "learning_curves.png")


def draw_report(results: dict[str, Any], directory: Path) -> None:
    """Draws a report's confusion matrix as `confusion_matrix.png`, or a regression's answers as `predictions.png`."""
    if "confusion_matrix" in results and len(results["classes"]) <= _MOST_CLASSES:
        _draw_confusion_matrix(results, directory / "confusion_matrix.png")
    if "points" in results:
        _draw_predictions(results, directory / "predictions.png")


def _draw_confusion_matrix(results: dict[str, Any], path: Path) -> None:
    counts, labels = np.array(results["confusion_matrix"]), [_short(label) for label in results["classes"]]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbered = len(labels) <= _MOST_NUMBERED
    size = max(4.6, (0.55 if numbered else 0.24) * len(labels) + 2)
    figure = Figure(figsize=(size + 0.7, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    few = len(labels) <= 4
    axes.set_xticks(ticks, labels, rotation=0 if few else 60, ha="center" if few else "right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=0, labelsize=10 if numbered else 7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"accuracy {results['accuracy']:.1%}, {counts.sum():,} examples", fontsize=11, loc="left", pad=10)
    axes.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(counts) if numbered else ():
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%}" if few else f"{count:,}"
        size = 12 if few else 8
        color = "white" if share > 0.55 else "#24313d"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, format=matplotlib.ticker.PercentFormatter(1.0))
    bar.set_label("share of the true class", fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    _save(figure, path)


def _draw_predictions(results: dict[str, Any], path: Path) -> None:
    truth, predicted = np.array(results["points"]).T
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(truth, predicted, s=12, alpha=0.5, color="#2f6ca3", linewidths=0)
    low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
    axes.plot([low, high], [low, high], color=_REST, linewidth=1, linestyle="--")
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    pearson = results["pearson"]
    told = f"mean absolute error {results['mean_absolute_error']:.3g}"
    axes.set_title(told if pearson is None else f"{told}, Pearson {pearson:.3f}", fontsize=11, loc="left")
    _plain(axes)
    _save(figure, path)


def _curves(training: Sequence[dict], validation: Sequence[dict]) -> list[str]:
    names = [name for line in training[:1] for name in line] + [
        name.removeprefix("validation_") for line in validation[:1] for name in line
    ]
    return [name for name in dict.fromkeys(names) if name not in _NOT_CURVES]


def _draw_curve(axes: Axes, lines: Sequence[dict], name: str, color: str, label: str, *, smooth: bool) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    if not points:
        return
    steps, values = np.array(points, float).T
    window = len(values) // 12
    if not smooth or window < 3:
        axes.plot(steps, values, color=color, linewidth=1.6, label=label, marker="o" if len(values) == 1 else None)
        return
    axes.plot(steps, values, color=color, linewidth=1, alpha=0.7)
    # Means of neighbours, fewer at the ends.
    ones = np.ones(window)
    means = np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
    axes.plot(steps, means, color="#2f6ca3", linewidth=1.8, label=label)


def _draw_points(axes: Axes, lines: Sequence[dict], name: str) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    if points:
        axes.plot(
            *zip(*points, strict=True), color=_VALIDATION, linewidth=1.4, marker="o", markersize=5, label="validation"
        )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=3, color=_REST)


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _save(figure: Figure, path: Path) -> None:
    # A Figure without pyplot draws with Agg: no display is needed, and no state is shared.
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=130))
