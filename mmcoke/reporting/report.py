"""One self-contained HTML page about a training run and its evaluation."""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmcoke.files import write_text

COLOURS = ('#3b6fb6', '#c8553d', '#4f8a5b', '#8b6bb1')


def read_scalars(work_dir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Curves that the last run in a work dir has logged: (step, value) by name.

    What a resumed run has not repeated is taken from the runs before it.

    Raises:
        FileNotFoundError: if no run has logged there.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'), reverse=True)
    if not files:
        raise FileNotFoundError(f'No run has logged scalars in {work_dir}.')
    curves = defaultdict(dict)
    for path in files:
        first = {name: min(curve) for name, curve in curves.items()}
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            step = record.pop('step')
            for name, value in record.items():
                if step < first.get(name, float('inf')):
                    curves[name][step] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def loss_chart(loss: Sequence[tuple[int, float]]) -> str:
    """SVG of the loss over epochs."""
    figure, axes = new_figure()
    axes.plot(*zip(*loss, strict=True), color=COLOURS[0])
    axes.set(xlabel='epoch', ylabel='loss')
    return as_svg(figure)


def size_chart(curves: dict[str, list], clusterings: Sequence[tuple[str, int, float]]) -> str:
    """SVG of the smallest and largest cluster of each clustering over epochs.

    Args:
        curves: as :func:`read_scalars` returns them.
        clusterings: for each, the name of its curves, the number of clusters, and the lower bound
            of their sizes in samples (0: none).
    """
    figure, axes = new_figure()
    for (name, num_clusters, bound), colour in zip(clusterings, COLOURS, strict=False):
        smallest = np.array(curves[f'{name}/min_size'])
        largest = np.array(curves[f'{name}/max_size'])
        axes.plot(*smallest.T, color=colour, label=f'K = {num_clusters}')
        axes.plot(*largest.T, color=colour, alpha=0.35)
        if bound:
            axes.axhline(bound, color=colour, linestyle=':', linewidth=1)
    axes.set(xlabel='epoch', ylabel='samples in a cluster')
    axes.set_yscale('symlog', linthresh=10)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter('{x:.0f}')
    axes.legend(frameon=False)
    return as_svg(figure)


def cluster_picture(images: np.ndarray, label: np.ndarray, columns: int = 24) -> str:
    """PNG, as a data URI, with a row of random members per cluster.

    Args:
        images: uint8 (A, H, W) or (A, H, W, 3).
        label: cluster of each image (A,).
        columns: members shown per cluster.
    """
    random = np.random.default_rng(0)
    clusters = np.unique(label)
    height, width = images.shape[1:3]
    gap = 1
    shape = (len(clusters) * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    canvas = np.full(shape, 255, np.uint8)
    for row, cluster in enumerate(clusters):
        members = random.permutation(np.flatnonzero(label == cluster))[:columns]
        for column, member in enumerate(members):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = images[member]
    return png_uri(canvas)


def write_report(path: str | Path, **content) -> None:
    """Fill the page template and write it.

    Args:
        path: the HTML file.
        **content: what ``templates/report.html`` names.
    """
    write_page(path, 'report.html', **content)


def write_page(path: str | Path, template: str, **content) -> None:
    """Fill a page of ``templates`` and write it; what is not marked as safe is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / 'templates')
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    write_text(path, environment.get_template(template).render(**content))


def new_figure() -> tuple[Figure, Axes]:
    """A figure with one plain pair of axes, without the state of pyplot."""
    figure = Figure(figsize=(6, 3.2), layout='constrained')
    axes = figure.subplots()
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """The figure as an inline SVG element."""
    stream = io.StringIO()
    figure.savefig(stream, format='svg', transparent=True, metadata={'Date': None})
    text = stream.getvalue()
    return text[text.index('<svg') :]


def png_uri(pixels: np.ndarray) -> str:
    """Pixels, uint8 (H, W) or (H, W, 3), as a data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode()
