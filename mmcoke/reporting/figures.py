"""How charts look, within a page and as files of their own."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmcoke.files import write_text, write_whole

COLOURS = (
    *('#3f83c8', '#d1603d', '#4a9a5c', '#9671c9'),
    *('#b98a1f', '#2a9d9d', '#cf5f9e', '#868d95'),
)
"""Of lines; each can be told from a white page, and from a black one."""

INK = '#1c1d1e'
"""Of text and axes; within a page it is the colour of the text around."""

STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmcoke',
    'font.size': 10,
    **{f'{name}.color': INK for name in ('text', 'xtick', 'ytick')},
    'axes.labelcolor': INK,
    'axes.edgecolor': INK,
    'grid.color': INK,
    'lines.linewidth': 1.4,
}

DPI = 150
"""Of PNG files."""


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        name: of its files.
        title: above it.
        figure: from :func:`new_figure`.
        note: behind the title: what is drawn how.
        alt: what those hear who do not see it.
    """

    name: str
    title: str
    figure: Figure
    note: str = ''
    alt: str = ''

    @cached_property
    def drawn(self) -> str:
        """As SVG; to draw it takes some 50 ms."""
        return drawn(self.figure)

    @property
    def svg(self) -> str:
        """As an inline element, in the colours of the page around it."""
        return inline(self.drawn, self.alt or self.title)

    @property
    def file_name(self) -> str:
        """Its name, as one that is good for files."""
        return re.sub(r'[^\w.-]+', '_', self.name)


def new_figure(width: float = 4.4, height: float = 2.7) -> tuple[Figure, Axes]:
    """A figure with one plain pair of axes, without the state of pyplot.

    Args:
        width, height: in inches, of 72 CSS points.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        # Fixed margins: to look for the right ones takes as long as to draw.
        left, right, bottom, top = 0.66 / width, 1 - 0.1 / width, 0.5 / height, 1 - 0.1 / height
        figure.subplots_adjust(left, bottom, right, top)
        axes = figure.subplots()
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.18)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, where there is more than one name; the figure grows by it."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    width, height = figure.get_size_inches()
    columns = max(1, min(5, int(13 * width / (max(map(len, names)) + 6))))
    rows = -(-len(names) // columns)
    taller = height + 0.21 * rows
    pars = figure.subplotpars
    figure.set_size_inches(width, taller)
    figure.subplots_adjust(
        bottom=pars.bottom * height / taller, top=1 - (0.1 + 0.21 * rows) / taller
    )
    axes.legend(
        handles,
        names,
        loc='lower left',
        bbox_to_anchor=(-0.1, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.2,
        labelspacing=0.2,
    )


def drawn(figure: Figure) -> str:
    """The figure as the text of an SVG file, without a background."""
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format='svg', transparent=True, metadata={'Date': None}, dpi=144)
    return stream.getvalue()


def as_svg(figure: Figure, alt: str = 'Chart') -> str:
    """The figure as an inline SVG element; see :func:`inline`."""
    return inline(drawn(figure), alt)


def inline(text: str, alt: str) -> str:
    """The text of an SVG file as an element of a page, in the colours around it."""
    text = text[text.index('<svg') :].replace(INK, 'currentColor')
    # Names of groups are those of every other chart, too.
    text = re.sub(r'<g id="[^"]*"', '<g', text)
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    size = re.search(r'<svg [^>]*?viewBox="([^"]*)"', text)[1]
    inner = text[text.index('>') + 1 :]
    return f'<svg viewBox="{size}" role="img" aria-label="{escaped(alt)}">{inner}'


def escaped(text: str) -> str:
    """Text within an attribute."""
    for character, entity in (('&', '&amp;'), ('"', '&quot;'), ('<', '&lt;'), ('>', '&gt;')):
        text = text.replace(character, entity)
    return text


def write_figures(folder: str | Path, charts: Iterable[Chart]) -> list[str]:
    """Write each chart as ``NAME.svg`` and, on white, ``NAME.png``, for papers.

    Returns:
        The names, in order.
    """
    names = []
    for chart in charts:
        path = Path(folder) / chart.file_name
        write_text(path.with_name(f'{path.name}.svg'), chart.drawn)
        write_whole(path.with_name(f'{path.name}.png'), partial(write_png, chart.figure))
        names.append(chart.file_name)
    return names


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, on white."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format='png', dpi=DPI, facecolor='white')
