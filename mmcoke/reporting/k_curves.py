"""Curves over the number of clusters, and a page with what they say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mmcoke.clustering.num_clusters import Scores, Suggestion

from .figures import COLOURS, as_svg
from .pages import write_page
from .views import save_figure

PANELS = (
    ('silhouette', 'silhouette, on images not seen', 'reference_silhouette'),
    ('stability', 'agreement of two halves (ARI)', 'reference_stability'),
    ('similarity', 'similarity to the center', None),
    ('smallest', 'images in the smallest cluster', None),
)
NAMES = dict(
    num_images='images',
    num_looked_at='of these looked at',
    dim='numbers of a feature',
)


def write_k_page(
    out: Path, scores: Sequence[Scores], found: Suggestion, facts: Mapping[str, Any]
) -> Path:
    """Write ``suggest_k.html``, and its curves as ``suggest_k.png`` and ``suggest_k.svg``.

    Args:
        out: folder.
        scores: by increasing numbers.
        found: what they say.
        facts: names and values below that.

    Returns:
        Path of the page.
    """
    save_figure(curves(scores, found), out / 'suggest_k')
    named = [(NAMES.get(name, name), format_fact(value)) for name, value in facts.items()]
    title = f'{found.num_clusters} clusters' if found.num_clusters else 'No preferred number'
    charts = [
        dict(name=text, svg=as_svg(one_panel(scores, found, names, text)))
        for text, *names in panels(scores)
    ]
    path = out / 'suggest_k.html'
    content = dict(title=title, reason=found.reason, facts=named, charts=charts)
    rows = [one._asdict() | dict(is_best=one.num_clusters == found.num_clusters) for one in scores]
    write_page(path, 'suggest_k.html', rows=rows, **content)
    return path


def format_fact(value: Any) -> str:
    return f'{value:,}' if isinstance(value, int) else str(value)


def panels(scores: Sequence[Scores]) -> list[tuple[str | None, ...]]:
    """What a chart shows: its name, the curve, and the one beside it."""
    found = [(text, name, beside) for name, text, beside in PANELS]
    if scores[0].nmi is not None:
        found.append(('agreement with the folders: a diagnosis', 'nmi', 'ari'))
    return found


def curves(scores: Sequence[Scores], found: Suggestion) -> Figure:
    """All charts in one figure."""
    shown = panels(scores)
    figure = Figure(figsize=(9, 2.6 * -(-len(shown) // 2)), layout='constrained')
    cells = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flatten()
    for axes, (text, *names) in zip(cells, shown, strict=False):
        draw(axes, scores, found, names)
        axes.set_title(text, fontsize=9)
    for axes in cells[len(shown) :]:
        axes.axis('off')
    return figure


def one_panel(
    scores: Sequence[Scores], found: Suggestion, names: Sequence[str | None], text: str
) -> Figure:
    """One chart, for the page."""
    figure = Figure(figsize=(5, 2.8), layout='constrained')
    axes = figure.subplots()
    draw(axes, scores, found, names)
    axes.set_ylabel(text)
    return figure


def draw(
    axes: Axes, scores: Sequence[Scores], found: Suggestion, names: Sequence[str | None]
) -> None:
    """A curve over K, and the one beside it in grey or in the next colour."""
    first, second = names
    numbers = [one.num_clusters for one in scores]
    is_reference = second is not None and second.startswith('reference')
    label = 'NMI' if first == 'nmi' else 'the images'
    axes.plot(
        numbers, [getattr(one, first) for one in scores], color=COLOURS[0], marker='.', label=label
    )
    if second is not None:
        style = dict(color='#888', linestyle='--') if is_reference else dict(color=COLOURS[1])
        label = 'without clusters' if is_reference else 'ARI'
        axes.plot(numbers, [getattr(one, second) for one in scores], label=label, **style)
        axes.legend(frameon=False, fontsize=8)
    if found.num_clusters:
        axes.axvline(found.num_clusters, color='#888', linewidth=1)
    axes.set_xscale('log')
    axes.set_xticks([n for n in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= numbers[-1]])
    axes.xaxis.set_major_formatter('{x:.0f}')
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel('K')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
