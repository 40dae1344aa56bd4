"""The pictures of a report."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from dogbreeds import metrics
from dogbreeds.research.compare import Entry, Group

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""One for each run, from Okabe & Ito (https://jfly.uni-koeln.de/color/): colour-blind people can distinguish them."""
MARKERS = "osD^vPX*"
"""One for each run, for print without colour; one more than colours, so that the eighth run differs from the first."""

_MAX_NAMED = 60
"""Breeds in a matrix up to which their names have the normal size; with more breeds they are smaller."""

NUM_COLUMNS = 5
"""Of panels beside each other."""

Format = Literal["png", "svg", "pdf"]
PICTURE_FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")
"""For pages; the others for print."""

PANEL = (4.4, 3.9)
"""Width and height of a picture, inches: its text is legible at the width of a phone."""


def accuracy_against_cost(entries: Sequence[Entry], cost: str, words: str) -> Figure:
    """Top-1 with its 95 % interval against something that a run costs.

    Args:
        entries: The runs.
        cost: "milliseconds", of the median photo, or a key of `Entry.cost`.
        words: What that is, for the axis.
    """
    figure, axes = _panel()
    for index, entry in enumerate(entries):
        value = entry.cost["milliseconds_per_photo"]["median"] if cost == "milliseconds" else entry.cost[cost]
        low, top1, high = (100 * entry.figures[name] for name in ("top1_low", "top1", "top1_high"))
        error = [[top1 - low], [high - top1]]
        axes.errorbar(value, top1, yerr=error, capsize=3, label=_literal(entry.name), linestyle="", **_look(index))
    axes.set_xscale("log")
    axes.set_xlabel(words)
    axes.set_ylabel("top-1, %")
    axes.margins(x=0.3)
    _label_logarithmic(axes.xaxis)
    return _with_legend(figure, axes)


def losses(entries: Sequence[Entry]) -> Figure:
    """The loss in training (dotted) and on validation after each epoch."""
    figure, axes = _panel()
    axes.set_ylabel("cross-entropy (dots: in training)")
    for index, entry in enumerate(entries):
        training = {**_look(index), "marker": "", "linestyle": ":"}
        axes.plot(*_by_epoch(entry, "train_loss"), **training)
    return _by_epoch_of_each(figure, axes, entries, "validation_loss")


def validation_top1(entries: Sequence[Entry]) -> Figure:
    """Top-1 on validation after each epoch."""
    figure, axes = _panel()
    axes.set_ylabel("validation top-1, %")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    return _by_epoch_of_each(figure, axes, entries, "validation_top1")


def reliability_diagram(entry: Entry) -> Figure:
    """Accuracy against confidence before and after calibration, and how many answers have which confidence."""
    figure, axes = _panel()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--", label="perfect")
    predictions, figures = entry.predictions, entry.figures
    before = metrics.reliability(predictions.uncalibrated(entry.run.calibration.temperature), predictions.labels)
    after = metrics.reliability(predictions.probabilities, predictions.labels)
    for bins, words, colour, marker in (
        (before, f"before, ECE {figures['ece_uncalibrated']:.1%}", "#e69f00", "s"),
        (after, f"calibrated, ECE {figures['ece']:.1%}", "#0072b2", "o"),
    ):
        filled = bins["n"] > 0
        x, y = bins["confidence"][filled], bins["accuracy"][filled]
        axes.plot(x, y, label=words, markersize=4, color=colour, marker=marker)
    share = after["n"] / after["n"].sum()
    edges = np.linspace(0, 1, len(share) + 1)
    axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color="#0072b2", alpha=0.15)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy; bars: share of answers")
    axes.set_title(_literal(entry.name), fontsize=10)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def confusion_matrix(entry: Entry, order: np.ndarray, form: str) -> Figure:
    """One of the two confusion matrices of a run.

    Args:
        entry: The run.
        order: The breeds to show, as `Group.order`.
        form: "counts" or "probabilities".
    """
    labels, probabilities = entry.predictions.labels, entry.predictions.probabilities
    if form == "counts":
        matrix = metrics.confusion_counts(probabilities, labels)[np.ix_(order, order)].astype(float)
        matrix /= np.maximum(np.bincount(labels, minlength=probabilities.shape[1])[order][:, None], 1)
        words = "share of the photos of the breed (row) predicted as ... (column)"
    else:
        matrix = metrics.confusion_probabilities(probabilities, labels)[np.ix_(order, order)]
        words = "mean probability of ... (column) over the photos of the breed (row)"
    names = [entry.predictions.names[index] for index in order]
    side = min(16.0, 3.5 + 0.105 * len(order)) if len(order) > 30 else 3.5 + 0.24 * len(order)
    size = 5.5 if len(order) > _MAX_NAMED else 7
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    # The root of the value: confusions of a few per cent are what one looks for
    shown = axes.imshow(np.sqrt(matrix), cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_title(f"{_literal(entry.name)}: {words}", fontsize=9, loc="left")
    bar = figure.colorbar(
        shown, ax=axes, shrink=0.5, fraction=0.04, pad=0.01, ticks=np.sqrt([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    )
    bar.set_ticklabels(["0", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %"], fontsize=8)
    return figure


def breed_by_breed(group: Group, first: Entry, second: Entry) -> Figure:
    """Each breed by its mean probability on its own photos, one run against the other; those far apart are named."""
    mine = {breed.breed: breed for breed in first.breeds}
    theirs = {breed.breed: breed for breed in second.breeds}
    names = [group.predictions.names[index] for index in group.order]
    x = np.array([theirs[name].mean_probability for name in names])
    y = np.array([mine[name].mean_probability for name in names])
    gap = np.array([mine[name].recall - theirs[name].recall for name in names])
    figure, axes = _panel((5.4, 5.4))
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
    for chosen, colour, marker, words in (
        (gap > 0, COLOURS[0], MARKERS[0], f"{_literal(first.name)} right more often"),
        (gap < 0, COLOURS[1], MARKERS[1], f"{_literal(second.name)} right more often"),
        (gap == 0, "#777777", "x", "equally often right"),
    ):
        axes.scatter(x[chosen], y[chosen], s=22, color=colour, marker=marker, label=f"{words}: {chosen.sum()} breeds")
    for index in np.argsort(-np.abs(y - x))[:10]:
        below = y[index] < x[index]  # the name goes to the side where the points are few
        axes.annotate(
            names[index],
            (x[index], y[index]),
            xytext=(6 if below else -6, 0),
            va="center",
            ha="left" if below else "right",
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlabel(f"{_literal(second.name)}: mean probability of the right breed", fontsize=9)
    axes.set_ylabel(f"{_literal(first.name)}: mean probability of the right breed", fontsize=9)
    axes.margins(x=0.15)
    return _with_legend(figure, axes, columns=1)


def top1_by_severity(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]]) -> Figure:
    """Top-1 of each run by the severity of what was done to the photos, a panel for each corruption.

    Args:
        panels: By corruption and run: severity, top-1 and its interval, in the order of the severities.
    """
    rows = math.ceil(len(panels) / NUM_COLUMNS)
    figure = Figure(figsize=(2.2 * NUM_COLUMNS, 2.0 * rows + 0.5), layout="constrained")
    places = figure.subplots(rows, NUM_COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (corruption, curves) in zip(places, panels.items(), strict=False):
        for index, (run, points) in enumerate(curves.items()):
            severities, *shares = np.transpose(points)
            top1, low, high = (100 * share for share in shares)
            look = {**_look(index), "markersize": 4}
            axes.plot(severities, top1, label=_literal(run), **look)
            axes.fill_between(severities, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.set_title(corruption, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("severity (0: the photo as it is); bands: 95 % intervals", fontsize=9)
    figure.supylabel("top-1, %", fontsize=9)
    figure.legend(
        *places[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def layer_alignments(panels: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """How alike the layers of each two networks are, the first layers at the lower left.

    Args:
        panels: By the names of two networks: the alignments of the layers of the first with those of the second, of
            all pairs, in the order of the networks.
    """
    num = math.isqrt(len(panels))
    figure = Figure(figsize=(2.6 * num + 0.9, 2.6 * num + 0.3), layout="constrained")
    places = figure.subplots(num, num, squeeze=False)
    for axes, ((one, other), values) in zip(places.ravel(), panels.items(), strict=True):
        shown = axes.imshow(values, cmap="magma", vmin=0, vmax=1, origin="lower", aspect="auto")
        axes.set_xlabel(_literal(other), fontsize=9)
        axes.set_ylabel(_literal(one), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
            axis.set_major_formatter(lambda value, _: f"{value + 1:g}")
        axes.tick_params(labelsize=8)
    figure.colorbar(shown, ax=places, shrink=0.6, label="centred kernel alignment")
    return figure


def attention_distances(networks: Mapping[str, Sequence[Sequence[tuple[float, float, float]]]]) -> Figure:
    """How far each head of each layer looks.

    Args:
        networks: By name, layer and head: the mean distance in pixels, and its interval.
    """
    figure, axes = _panel()
    for index, (name, layers) in enumerate(networks.items()):
        points = np.array([(layer, *head) for layer, heads in enumerate(layers, 1) for head in heads])
        layer, mean, low, high = points.T
        look = {**_look(index), "markersize": 4}
        axes.errorbar(layer, mean, yerr=[mean - low, high - mean], linestyle="", label=_literal(name), **look)
    axes.set_xlabel("layer; a point for each head")
    axes.set_ylabel("mean attention distance, pixels")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    return _with_legend(figure, axes)


@dataclass(frozen=True)
class Curve:
    """A line of `curves`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """Means over the runs."""
    low: Sequence[float]
    high: Sequence[float]
    """Of the intervals of `y`."""
    runs: Sequence[tuple[float, float]]
    """Each single run, one of each seed."""


def curves(lines: Sequence[Curve], x_words: str, y_words: str, *, against_time: bool = False) -> Figure:
    """Lines with their intervals, and each run as a small point.

    Args:
        lines: In the order of the legend.
        x_words: Of the x axis, which is logarithmic.
        y_words: Of the y axis.
        against_time: The x are measured: each run has its own. Otherwise all lines have the same, which are written
            below the axis; there the lines stand a little beside each other, so that no interval hides another.
    """
    figure, axes = _panel((5.6, 4.6))
    if len({x for line in lines for x in line.x}) > 1:  # a logarithmic axis of one place has no ends
        axes.set_xscale("log")
    for index, line in enumerate(lines):
        aside = 1.0 if against_time else 1.035 ** (index - (len(lines) - 1) / 2)
        x, look = np.array(line.x) * aside, _look(index)
        error = [np.array(line.y) - line.low, np.array(line.high) - line.y]
        axes.errorbar(x, line.y, yerr=error, capsize=2, linewidth=1.2, label=_literal(line.name), **look)
        runs = np.array(line.runs)
        beside = aside if against_time else 1.012 * aside  # not on the bar of the interval
        axes.scatter(runs[:, 0] * beside, runs[:, 1], s=9, color=look["color"], alpha=0.6, linewidths=0)
    axes.set_xlabel(x_words)
    axes.set_ylabel(y_words)
    if against_time:
        _label_logarithmic(axes.xaxis)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xticks(sorted({x for line in lines for x in line.x}))
        axes.xaxis.set_minor_locator(NullLocator())
    return _with_legend(figure, axes)


def _label_logarithmic(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade; of many decades 1 alone, which has room; of a part of one even steps."""
    low, high = axis.get_view_interval()
    decades = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,))
    axis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)) if high < 5 * low else decades)
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _literal(name: str) -> str:
    """A run's name for matplotlib, to the letter: dollars would begin a formula, "_" at the start hides a legend."""
    name = name.replace("$", r"\$")
    return f"\u200b{name}" if name.startswith("_") else name


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 6}


def _panel(size: tuple[float, float] = PANEL) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, which="both")
    return figure, axes


def _by_epoch(entry: Entry, column: str) -> tuple[list[float], list[float]]:
    return [row["epoch"] for row in entry.history], [row[column] for row in entry.history]


def _by_epoch_of_each(figure: Figure, axes: Any, entries: Sequence[Entry], column: str) -> Figure:
    for index, entry in enumerate(entries):
        axes.plot(*_by_epoch(entry, column), label=_literal(entry.name), **_look(index))
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _with_legend(figure, axes)


def _with_legend(figure: Figure, axes: Any, columns: int = 2) -> Figure:
    """The figure with a legend above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    wide = max(map(len, labels), default=0) > 24
    figure.legend(handles, labels, loc="outside upper center", ncols=1 if wide else columns, frameon=False, fontsize=9)
    return figure


def in_all_formats(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Figures as files of all `PICTURE_FORMATS`, by their names with the endings."""
    return {f"{name}.{form}": in_format(figure, form) for name, figure in figures.items() for form in PICTURE_FORMATS}


def in_format(figure: Figure, form: Format) -> bytes:
    """A figure as a file, the same bytes each time; the text of SVG and PDF can be searched."""
    file, undated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dogbreeds", "pdf.fonttype": 42}):
        figure.savefig(file, format=form, dpi=150, facecolor="white", bbox_inches="tight", metadata=undated)
    return file.getvalue()
