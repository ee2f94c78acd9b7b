"""The files of a sort: tables, import files of other programs, folders of links or copies."""

import csv
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from torch import Tensor

from mmcoke.files import plain
from mmcoke.messages import shown, some

from .duplicates import NO_GROUP
from .result import NUM_EXEMPLARS, Sorted

CHUNK_SIZE = 1 << 16
"""Rows of a table that are held as Python values at once."""

LABEL_STUDIO = 'label_studio.json'
LABEL_STUDIO_CONFIG = 'label_studio.xml'
FIFTYONE = 'fiftyone'
FOLDERS = 'clusters'

LONGEST_NAME = 255
"""Bytes of a file's name."""


def columns(result: Sorted) -> list[str]:
    """Names of the columns of ``images.csv`` and ``images.parquet``."""
    coarser = [f'cluster_{i}' for i in range(1, len(result.coarser) + 1)]
    return [
        *('path', 'cluster', *coarser, 'similarity', 'margin'),
        *('duplicate_group', 'keep', 'pick_rank'),
    ]


def chunks(result: Sorted) -> Iterator[list[list]]:
    """The values of some images at a time, column by column, None where there is none."""
    numbers = [*result.labels(), result.similarity, result.margin]
    for start in range(0, len(result), CHUNK_SIZE):
        rows = slice(start, min(start + CHUNK_SIZE, len(result)))
        yield [
            [result.names[row] for row in range(rows.start, rows.stop)],
            *(plain(x[rows]) for x in numbers),
            [None if group == NO_GROUP else group for group in result.group[rows].tolist()],
            result.keep[rows].tolist(),
            [rank or None for rank in result.rank[rows].tolist()],
        ]


def write_images_csv(result: Sorted, path: Path) -> None:
    """A row per image, names as the file system spells them, byte by byte."""
    with open_csv(path) as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(columns(result))
        for chunk in chunks(result):
            table.writerows([cell(value) for value in row] for row in zip(*chunk, strict=True))


def open_csv(path: Path) -> Any:
    return path.open('w', encoding='utf-8', errors='surrogateescape', newline='')


def cell(value: Any) -> Any:
    """A value as text of a table: empty for none, ``true`` and ``false``, six decimals."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'{value:.6f}' if isinstance(value, float) else value


def write_images_parquet(result: Sorted, path: Path) -> None:
    """The same rows with their types. Parquet's texts are UTF-8: other bytes become ``\\xff``."""
    import pyarrow
    from pyarrow import parquet

    types = dict(path=pyarrow.string(), keep=pyarrow.bool_())
    types |= dict.fromkeys(('similarity', 'margin'), pyarrow.float32())
    schema = pyarrow.schema([(name, types.get(name, pyarrow.int64())) for name in columns(result)])
    with parquet.ParquetWriter(path, schema) as writer:
        for names, *values in chunks(result):
            arrays = [[utf8(name) for name in names], *values]
            writer.write_table(pyarrow.table(arrays, schema=schema))


def utf8(name: str) -> str:
    """A name as text that can be encoded: bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(name).decode('utf-8', 'backslashreplace')


def write_clusters_csv(result: Sorted, path: Path) -> None:
    """A row per cluster of each level, the finest level first."""
    with open_csv(path) as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(['level', 'cluster', 'size', 'parent', 'spread', 'exemplars'])
        for level, rows in enumerate(cluster_levels(result)):
            for cluster, (size, parent, spread, exemplars) in enumerate(rows):
                names = json.dumps([result.names[row] for row in exemplars], ensure_ascii=False)
                table.writerow([level, cluster, size, parent, cell(spread), names])


def cluster_levels(result: Sorted) -> Iterator[Iterable[tuple]]:
    """Size, parent, spread and rows of exemplars of the clusters of each level.

    The spread is 1 less the mean similarity to the center: of the images, on the finest level; of
    the centers of the next finer level, by their sizes, on the others.
    """
    typical, sizes, centers = result.typical(), result.sizes, result.centers
    exemplars = [rows[:NUM_EXEMPLARS].tolist() for rows in typical]
    spreads = [1 - float(result.similarity[rows].double().mean()) for rows in typical]
    for level in [*result.coarser, None]:
        parents = level.parent.tolist() if level else [None] * len(exemplars)
        yield zip(sizes.tolist(), parents, spreads, exemplars, strict=True)
        if level:
            similarity = (centers * level.centers[level.parent]).sum(1)
            spreads, exemplars = coarse_facts(level.parent, similarity, sizes, exemplars)
            sizes, centers = level.size, level.centers


def coarse_facts(
    parent: Tensor, similarity: Tensor, sizes: Tensor, exemplars: list[list[int]]
) -> tuple[list[float], list[list[int]]]:
    """Spreads of coarser clusters, and the first exemplars of the most similar finer ones."""
    children: list[list[int]] = [[] for _ in range(int(parent.max()) + 1)]
    for child in similarity.argsort(descending=True, stable=True).tolist():
        children[parent[child]].append(child)
    spreads = [
        1 - float((similarity[own] * sizes[own]).sum() / sizes[own].sum()) for own in children
    ]
    firsts = [
        [exemplars[child][0] for child in own if exemplars[child]][:NUM_EXEMPLARS]
        for own in children
    ]
    return spreads, firsts


# ---- import files of other programs


def write_label_studio(result: Sorted, folder: Path) -> None:
    """Tasks with predictions for Label Studio, and the labelling interface that they need.

    The picks in the order of their ranks; without picks all images. Files are served from the local
    disk: the document root is the folder above the images'.

    Source: labelstud.io/guide/predictions (format), labelstud.io/guide/storage (local files).
    """
    rows = result.picks or range(len(result))
    write_json_list(folder / LABEL_STUDIO, map(partial(label_studio_task, result), rows))
    choices = ''.join(
        f'    <Choice value={quoteattr(str(cluster))}/>\n' for cluster in range(result.num_clusters)
    )
    (folder / LABEL_STUDIO_CONFIG).write_text(
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="cluster" toName="image" choice="single">\n{choices}  </Choices>\n'
        '</View>\n',
        encoding='utf-8',
    )


def label_studio_task(result: Sorted, row: int) -> dict:
    """One image with its cluster as a prediction."""
    below = os.path.relpath(result.path(row), os.path.dirname(result.root))
    choice = dict(
        from_name='cluster',
        to_name='image',
        type='choices',
        value=dict(choices=[str(int(result.label[row]))]),
    )
    prediction = dict(
        model_version='mmcoke', score=round(float(result.similarity[row]), 6), result=[choice]
    )
    data = dict(
        image=f'/data/local-files/?d={quote(os.fsencode(below))}',
        path=utf8(result.names[row]),
        pick_rank=int(result.rank[row]) or None,
    )
    return dict(data=data, predictions=[prediction])


def write_fiftyone(result: Sorted, folder: Path) -> int:
    """A FiftyOneImageClassificationDataset with a manifest of media, so no image is copied.

    Names that are not UTF-8 are left out: FiftyOne's database cannot hold them.

    Returns:
        How many were left out.

    Source: docs.voxel51.com/user_guide/import_datasets.html (FiftyOneImageClassificationDataset).
    """
    out = folder / FIFTYONE
    out.mkdir()
    width = len(str(len(result)))
    rows = [row for row in range(len(result)) if is_utf8(result.path(row))]
    write_json_object(out / 'data.json', ((f'{row:0{width}}', result.path(row)) for row in rows))
    labels = ((f'{row:0{width}}', fiftyone_label(result, row)) for row in rows)
    classes = [str(cluster) for cluster in range(result.num_clusters)]
    with (out / 'labels.json').open('w', encoding='utf-8') as file:
        file.write(f'{{"classes": {json.dumps(classes)}, "labels": ')
        json_object(file, labels)
        file.write('}\n')
    return len(result) - len(rows)


def is_utf8(name: str) -> bool:
    """Whether all bytes of a name are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def fiftyone_label(result: Sorted, row: int) -> dict:
    """Cluster and further values of one image."""
    attributes = dict(margin=float(result.margin[row]), keep=bool(result.keep[row]))
    if result.group[row] != NO_GROUP:
        attributes['duplicate_group'] = int(result.group[row])
    if result.rank[row]:
        attributes['pick_rank'] = int(result.rank[row])
    for i, level in enumerate(result.coarser, 1):
        cluster = int(level.parent[attributes.get(f'cluster_{i - 1}', result.label[row])])
        attributes[f'cluster_{i}'] = cluster
    return dict(
        label=int(result.label[row]),
        confidence=float(result.similarity[row]),
        attributes=plain(attributes),
    )


def write_json_list(path: Path, items: Iterable[Any]) -> None:
    """A JSON array, an element a line, one at a time."""
    with path.open('w', encoding='utf-8') as file:
        for i, item in enumerate(items):
            file.write(('[\n' if i == 0 else ',\n') + json.dumps(item))
        file.write('\n]\n')


def write_json_object(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """A JSON object, a key a line, one at a time."""
    with path.open('w', encoding='utf-8') as file:
        json_object(file, items)
        file.write('\n')


def json_object(file: Any, items: Iterable[tuple[str, Any]]) -> None:
    file.write('{')
    for i, (key, value) in enumerate(items):
        file.write(f'{"," if i else ""}\n{json.dumps(key)}: {json.dumps(value)}')
    file.write('\n}')


# ---- folders


def write_folders(
    result: Sorted,
    folder: Path,
    place: Callable[[str, Path], None],
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[str]:
    """A folder per cluster with its images, by :func:`link` or :func:`copy`.

    A name that occurs twice in a cluster, small letters or not, gets a number.

    Returns:
        Names of images that were gone by now.
    """
    taken: list[set[str]] = [set() for _ in range(result.num_clusters)]
    for cluster in range(result.num_clusters):
        (folder / FOLDERS / str(cluster)).mkdir(parents=True)
    gone = []
    for row in progress(range(len(result))):
        cluster = int(result.label[row])
        name = free_name(os.path.basename(result.names[row]), taken[cluster])
        try:
            place(result.path(row), folder / FOLDERS / str(cluster) / name)
        except FileNotFoundError:
            gone.append(result.names[row])
    return gone


def link(source: str, target: Path) -> None:
    """A symbolic link.

    Raises:
        FileNotFoundError: if the source is not there.
        ValueError: if the file system has no links.
    """
    os.stat(source)
    try:
        target.symlink_to(source)
    except OSError as error:
        raise ValueError(
            f'{target.parent.parent} is on a file system without symbolic links '
            f'({error.strerror}). Give --copy instead of --link, or another --out.'
        ) from error


def copy(source: str, target: Path) -> None:
    """A copy, with its times."""
    shutil.copy2(source, target)


def free_name(name: str, taken: set[str]) -> str:
    """The name, or the first of ``name_2.jpg``, ``name_3.jpg``, ... that is not taken.

    Args:
        name: of a file.
        taken: names that are, as :func:`folded`; gets the new one.
    """
    stem, ending = os.path.splitext(name)
    found, number = name, 1
    while folded(found) in taken:
        number += 1
        suffix = os.fsencode(f'_{number}{ending}')
        found = os.fsdecode(os.fsencode(stem)[: LONGEST_NAME - len(suffix)] + suffix)
    taken.add(folded(found))
    return found


def folded(name: str) -> str:
    """What names have in common that some file systems take for one."""
    return unicodedata.normalize('NFC', name).casefold()


def check_space(result: Sorted, folder: Path) -> None:
    """ValueError if copies of all images do not fit on the disk."""
    needed = 0
    for row in range(len(result)):
        try:
            needed += os.path.getsize(result.path(row))
        except OSError:
            continue
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'Copies of the images need {needed / 1e9:.1f} GB, but {shown(folder)} has '
            f'{free / 1e9:.1f} GB left. Give --link instead of --copy.'
        )


def say_gone(gone: list[str]) -> None:
    """Tell which images could not be linked or copied."""
    if gone:
        print(f'{len(gone):,} images are gone by now: {some(gone)}.', file=sys.stderr)
