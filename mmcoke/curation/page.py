"""The page of a sort: picks, near duplicates, and all clusters."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from mmcoke.messages import shown
from mmcoke.reporting.gallery import Photo, Row, Section, cluster_section, counted, write_sections

from .result import Sorted

NUM_TILES = 2000
"""Photos of clusters that a page shows at most; of a cluster 2 to 40."""

NUM_NAMED = 20_000
"""Photos of clusters that are named, but not shown; of a cluster up to 200."""

MOST_CLUSTERS, MOST_PICKS, MOST_GROUPS, MOST_OF_GROUP = 500, 60, 60, 6

FILES = ('images.csv', 'images.parquet', 'clusters.csv', 'summary.json')


def write_page(
    result: Sorted,
    folder: Path,
    out: Path,
    summary: dict,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Write ``index.html``.

    Args:
        result: what it shows.
        folder: where it is written.
        out: where it will be: its links start there.
        summary: content of ``summary.json``.
        progress: wraps the list of sections.
    """
    sections = [*pick_sections(result, out), *group_sections(result, out)]
    sections += alike_sections(result, out)
    sections += cluster_sections(result, out)
    notes = [name for name in ('unreadable.txt', 'removed.txt') if (folder / name).exists()]
    write_sections(
        folder / 'index.html',
        sections,
        title=f'{counted(len(result), "photo")} in {counted(result.num_clusters, "cluster")}',
        summary='The most typical photos of each cluster first; the number is the similarity to '
        'its center. A click enlarges, a name opens the file.',
        facts=facts(summary),
        files=[*FILES, *notes],
        progress=progress,
    )


def facts(summary: dict) -> list[tuple[str, str]]:
    """Names and values at the head of the page."""
    sizes, duplicates = summary['sizes'], summary['duplicates']
    found = [
        ('photos', f'{summary["num_images"]:,}'),
        ('clusters', ' → '.join(f'{number:,}' for number in summary['levels'])),
        ('sizes', f'{sizes["least"]:,} … {sizes["median"]:,.0f} … {sizes["most"]:,}'),
        (
            'near duplicates',
            f'{duplicates["num_to_drop"]:,} in {duplicates["num_groups"]:,} groups',
        ),
        ('picked', f'{summary["num_picks"]:,}'),
        ('cannot be read', f'{summary["unreadable"]:,}'),
        ('removed', f'{summary["removed"]:,}'),
    ]
    always = ('photos', 'clusters', 'sizes', 'near duplicates')
    return [(name, value) for name, value in found if name in always or value != '0']


def photo(result: Sorted, row: int, out: Path, note: str = '') -> Photo:
    """One photo for the page, with its similarity unless there is another note."""
    path = result.path(row)
    note = note or f'{result.similarity[row]:.2f}'
    return Photo(path, shown(result.names[row]), note, link(path, out))


def link(path: str, out: Path) -> str:
    """Address of a file as seen from a page in a folder, whatever bytes are in its name."""
    try:
        return quote(os.fsencode(os.path.relpath(path, out)).replace(os.fsencode(os.sep), b'/'))
    except ValueError:  # on another drive of Windows
        return Path(path).as_uri()


def pick_sections(result: Sorted, out: Path) -> list[Section]:
    """The picks by rank, with their clusters."""
    rows = result.picks
    if not rows:
        return []
    photos = [
        photo(result, row, out, f'{rank} · cluster {result.label[row]}')
        for rank, row in enumerate(rows[: MOST_PICKS + 200], 1)
    ]
    rest = len(rows) - len(photos)
    return [
        Section(
            'picks',
            'Picked',
            f'{counted(len(rows), "photo")} that cover all, the most useful first',
            [Row('', photos[:MOST_PICKS])],
            photos[MOST_PICKS:],
            f'and {rest:,} more, by pick_rank in' if rest else '',
            'Picked',
            len(rows),
            'images.csv',
        )
    ]


def group_sections(result: Sorted, out: Path) -> list[Section]:
    """Groups of near duplicates, with the one to keep first."""
    groups = result.groups()
    if not groups:
        return []
    rest = len(groups) - MOST_GROUPS
    return [
        Section(
            'duplicates',
            'Near duplicates',
            f'{counted(len(groups), "group")}; the first of each is the one to keep',
            [Row(*group_row(result, group, out)) for group in groups[:MOST_GROUPS]],
            rest=f'and {counted(rest, "group")} more, by duplicate_group in' if rest > 0 else '',
            entry='Duplicates',
            count=sum(map(len, groups)),
            where='images.csv',
        )
    ]


def group_row(result: Sorted, group: Sequence[int], out: Path) -> tuple[str, list[Photo]]:
    """Title and photos of one group."""
    photos = [
        photo(result, row, out, 'keep' if result.keep[row] else 'copy')
        for row in group[:MOST_OF_GROUP]
    ]
    more = f', the first {len(photos)}' if len(group) > len(photos) else ''
    return f'Group {result.group[group[0]]}: {counted(len(group), "photo")}{more}', photos


def alike_sections(result: Sorted, out: Path) -> list[Section]:
    """Some images with those most like them."""
    if not result.alike:
        return []
    rows = [
        Row(
            f'Like {shown(result.names[found.query])}',
            [
                photo(result, found.query, out, 'this one'),
                *(
                    photo(result, row, out, f'{similarity:.2f}')
                    for row, similarity in zip(found.rows, found.similarity, strict=True)
                ),
            ],
        )
        for found in result.alike
    ]
    note = 'the most typical photos of clusters, and those most similar to them over all clusters'
    count = len(rows)
    return [Section('alike', 'Pictures like this one', note, rows, entry='Alike', count=count)]


def cluster_sections(result: Sorted, out: Path) -> list[Section]:
    """The clusters, large ones first; of very many only the largest."""
    typical = result.typical()
    order = sorted(range(len(typical)), key=lambda cluster: (-len(typical[cluster]), cluster))
    order = [cluster for cluster in order if len(typical[cluster])]
    shown_ones, rest = order[:MOST_CLUSTERS], order[MOST_CLUSTERS:]
    num_shown = min(40, max(2, NUM_TILES // len(shown_ones)))
    num_named = min(200, NUM_NAMED // len(shown_ones))
    sections = []
    for cluster in shown_ones:
        rows = typical[cluster]
        photos = [photo(result, row, out) for row in rows[: num_shown + num_named].tolist()]
        note = above(result, cluster)
        sections.append(
            cluster_section(str(cluster), photos, len(rows), num_shown, note, 'images.csv')
        )
    if rest:
        text = f'{counted(len(rest), "smaller cluster")} with their exemplars in'
        sections.append(
            Section(
                'other-clusters', 'Other clusters', '', [], rest=text, entry='Others',
                count=sum(len(typical[cluster]) for cluster in rest), where='clusters.csv',
            )
        )  # fmt: skip
    return sections


def above(result: Sorted, cluster: int) -> str:
    """The coarser clusters that a cluster is in."""
    found = ''
    for number, level in enumerate(result.coarser, 1):
        cluster = int(level.parent[cluster])
        found += f' · cluster_{number} {cluster}'
    return found
