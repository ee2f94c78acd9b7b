"""The model zoo on a terminal: list, show, download."""

import argparse
import os
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmcoke import zoo
from mmcoke.zoo.index import Figure, matching
from mmcoke.zoo.store import cached_file

HEADLINE = ('Linear evaluation', 'Image Classification')
"""Tasks whose first figure a list shows."""


def main(args: argparse.Namespace) -> None:
    wide = 140 if args.verb == 'list' and not sys.stdout.isatty() else None
    console = Console(width=wide, soft_wrap=args.verb != 'list', highlight=False)
    if args.verb == 'list':
        list_models(args.pattern, console)
    elif args.verb == 'show':
        show_model(args.name, console)
    else:
        path = zoo.download(args.name, args.dest, args.convert)
        # To the byte, for $(mmcoke zoo download NAME).
        sys.stdout.buffer.write(os.fsencode(path) + b'\n')


def list_models(pattern: str, console: Console) -> None:
    """A row per model."""
    table = Table('model, and other names', 'weights', 'top 1 of a linear classifier')
    for entry in matching(pattern):
        names = '\n  '.join([entry.name, *entry.aliases])
        table.add_row(escape(names), where(entry), headline(entry))
    console.print(table if table.row_count else f'No name matches {escape(repr(pattern))}.')


def where(entry: zoo.Entry) -> str:
    """Where the weights are, in words."""
    source = entry.source
    if source.kind in ('none', 'shipped'):
        return 'with mmcoke' if source.kind == 'shipped' else 'none: a recipe'
    place = 'Google Drive' if source.kind == 'drive' else source.address.split('/')[2]
    return f'{place}, downloaded' if cached_file(source).is_file() else place


def headline(entry: zoo.Entry) -> str:
    """One figure of a model, and who measured it."""
    for figures, by in ((entry.published, 'published'), (entry.measured, 'ours')):
        for figure in figures:
            if figure.task in HEADLINE:
                return f'{next(iter(figure.metrics.values()))} {figure.dataset} ({by})'
    return 'not measured'


def show_model(name: str, console: Console) -> None:
    """All fields, and how to use the weights."""
    entry = zoo.show(name)
    facts = dict(
        name=entry.name,
        aliases=', '.join(entry.aliases),
        method=entry.method,
        config=entry.config,
        weights=entry.source.address or 'none: a recipe',
        sha256=entry.source.sha256,
        file=cached_file(entry.source) if entry.source.filename else '',
        layout=entry.layout,
        input=entry.input,
        paper=': '.join((entry.paper or {}).values()),
        **{key.lower(): value for key, value in (entry.metadata or {}).items()},
    )
    if entry.source.kind != 'none':
        facts['use'] = (
            f"init_cfg=dict(type='Pretrained', checkpoint='mmcoke://{entry.model_id}', "
            "prefix='backbone.')"
        )
    for key, value in facts.items():
        if value:
            text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
            console.print(f'[bold]{key}[/]: {escape(text)}')
    show_figures('published', entry.published, console)
    show_figures('measured by this project', entry.measured, console)
    if entry.command:
        console.print(f'[bold]command that measures[/]: {escape(entry.command)}')


def show_figures(title: str, figures: tuple[Figure, ...], console: Console) -> None:
    """Figures, with who published them."""
    if figures:
        console.print(f'[bold]{title}[/]:')
    for figure in figures:
        values = '; '.join(f'{name}: {value}' for name, value in figure.metrics.items())
        by = f' ({figure.source})' if figure.source != 'mmcoke' else ''
        console.print(escape(f'  {figure.task}, {figure.dataset}. {values}{by}'))
