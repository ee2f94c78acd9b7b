"""Which clusters of a run a page shows, and by which of their images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from mmcoke.clustering import UNASSIGNED

from .figures import COLOURS, Chart, add_legend, new_figure
from .tiles import Tiles

NUM_OF_KIND = 6
"""Largest, smallest, purest, ... clusters that are shown."""

NUM_OTHERS = 12
"""Clusters that are looked at besides, where none is known to be pure."""

NUM_MEMBERS = 20
"""Images of a shown cluster that are looked at."""

NUM_SHOWN = 8
"""Of these, the nearest to the center, and as many at random."""

NUM_ON_MAP = 96
MAP_COLUMNS = 12
NUM_OF_MAP = 2
"""Images of a cluster on the map that are looked at; the one nearest to the center is shown."""

NUM_RANDOM = 600
"""Images of the whole data set that are looked at."""

NUM_QUERIES = 6
MOST_HEADS = 4
MOST_CLASSES = 10
"""Classes that can be told apart by colour."""


class Head:
    """One clustering of a run.

    Args:
        name: such as ``coke/3000``.
        label_A: cluster of each image of the data set, int64 (A,), -1 for none.
        center_KD: unit vectors (K, D), in the space of the projections; None where there are none.
    """

    def __init__(self, name: str, label_A: np.ndarray, center_KD: np.ndarray | None = None) -> None:
        self.name, self.label_A, self.center_KD = name, label_A, center_KD
        self.num_clusters = max(
            int(label_A.max(initial=-1)) + 1, 0 if center_KD is None else len(center_KD)
        )
        self.members = Members(label_A, self.num_clusters)

    @property
    def size_K(self) -> np.ndarray:
        """Images in each cluster (K,)."""
        return self.members.size_K


class Members:
    """Rows of the images of each cluster, in a random order that is always the same."""

    def __init__(self, label_A: np.ndarray, num_clusters: int) -> None:
        mixed = np.random.default_rng(0).permutation(len(label_A))
        self._rows = mixed[np.argsort(label_A[mixed], kind='stable')]
        self.size_K = np.bincount(label_A[label_A != UNASSIGNED], minlength=num_clusters)
        num_without = len(label_A) - int(self.size_K.sum())
        self._first = num_without + np.concatenate([[0], np.cumsum(self.size_K)])

    def __getitem__(self, cluster: int) -> np.ndarray:
        return self._rows[self._first[cluster] : self._first[cluster + 1]]


class Classes:
    """Labels of the data set, which training never sees.

    Args:
        class_A: class of each image, int64 (A,), -1 for none.
        names: of the classes; empty if they have none.
    """

    def __init__(self, class_A: np.ndarray, names: Sequence[str] = ()) -> None:
        self.class_A, self.names = class_A, names

    def name(self, number: int) -> str:
        """What a class is called."""
        return self.names[number] if number < len(self.names) else f'class {number}'

    def purity(self, head: Head) -> tuple[np.ndarray, np.ndarray]:
        """Share of the most frequent class in each cluster (K,), and that class (K,).

        Of the images that have a class; nan where a cluster has none of these.
        """
        num_classes = int(self.class_A.max()) + 1
        known = (head.label_A != UNASSIGNED) & (self.class_A >= 0)
        pairs = head.label_A[known].astype(np.int64) * num_classes + self.class_A[known]
        found, counts = np.unique(pairs, return_counts=True)
        order = np.argsort(counts, kind='stable')  # the most frequent one is written last
        most, which = np.full(head.num_clusters, np.nan), np.full(head.num_clusters, -1)
        most[found[order] // num_classes] = counts[order]
        which[found[order] // num_classes] = found[order] % num_classes
        total = np.bincount(head.label_A[known], minlength=head.num_clusters)
        return most / np.maximum(total, 1), which


class Choice:
    """Which clusters of a head are shown, as far as sizes and classes say it.

    Attributes:
        kinds: clusters by heading.
        looked_at: all clusters of which several images are looked at.
        on_map: clusters on the map.
    """

    def __init__(self, head: Head, classes: Classes | None) -> None:
        size_K = head.size_K
        by_size = np.argsort(-size_K, kind='stable')
        by_size = by_size[size_K[by_size] > 0]
        random = np.random.default_rng(0)
        self.purity = None if classes is None else classes.purity(head)
        self.kinds: dict[str, np.ndarray] = {}
        if len(by_size) <= 2 * NUM_OF_KIND:
            self.kinds['All, the largest first'] = by_size
        else:
            self.kinds['Largest'] = by_size[:NUM_OF_KIND]
            self.kinds['Smallest'] = by_size[::-1][:NUM_OF_KIND]
            if self.purity is not None:
                share_K = self.purity[0]
                known = by_size[~np.isnan(share_K[by_size])]
                pure = known[np.argsort(-share_K[known], kind='stable')]
                self.kinds['Purest'] = pure[:NUM_OF_KIND]
                self.kinds['Least pure'] = pure[::-1][:NUM_OF_KIND]
        shown = [cluster for found in self.kinds.values() for cluster in found.tolist()]
        if classes is None:
            shown += random.permutation(by_size)[:NUM_OTHERS].tolist()
        self.looked_at = list(dict.fromkeys(shown))
        self.on_map = sorted(random.permutation(by_size)[:NUM_ON_MAP].tolist())


def rows_to_look_at(
    heads: Sequence[Head], choices: Sequence[Choice], num_images: int
) -> np.ndarray:
    """Rows of the images that the page needs, each once; those that matter most come first.

    As many of them as there is time for are looked at: a first image of each cluster, then a
    second, ..., and between them random ones of the whole data set.
    """
    chains: list[Iterator[int]] = []
    for head, choice in zip(heads, choices, strict=True):
        shown = set(choice.looked_at)
        for cluster in dict.fromkeys([*choice.looked_at, *choice.on_map]):
            number = NUM_MEMBERS if cluster in shown else NUM_OF_MAP
            chains.append(iter(head.members[cluster][:number].tolist()))
    random = np.random.default_rng(1).permutation(num_images)[:NUM_RANDOM].tolist()
    rounds = [row for one in zip_longest(*chains) for row in one if row is not None]
    mixed = [row for pair in zip_longest(rounds, random) for row in pair if row is not None]
    return np.array(list(dict.fromkeys(mixed)), np.int64)


class LookedAt:
    """The images of a run that were looked at: a sample.

    Args:
        images: name of their data set, for those that several runs share.
        record_of: from a row of the data set to its record.
        row_S: rows of the sample (S,).
        pooled_SC: features of the backbone, unit vectors (S, C).
        projected_SD: projections, unit vectors (S, D).
        heads: the clusterings.
        classes: labels of the data set; None where it has none.
        notes: what could not be shown, a line each.
    """

    def __init__(
        self,
        images: str,
        record_of: Callable[[int], Mapping[str, Any]],
        row_S: np.ndarray,
        pooled_SC: np.ndarray,
        projected_SD: np.ndarray,
        heads: Sequence[Head],
        classes: Classes | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.images, self.record_of, self.row_S = images, record_of, row_S
        self.pooled_SC, self.projected_SD = pooled_SC, projected_SD
        self.heads, self.classes, self.notes = heads, classes, list(notes)

    @cached_property
    def choices(self) -> list[Choice]:
        """Of each head."""
        return [Choice(head, self.classes) for head in self.heads]

    def tile(self, tiles: Tiles, row: int) -> dict:
        """A picture of an image of the data set."""
        return tiles.of(self.images, int(row), self.record_of)


# ---- clusters


class Seen:
    """What is seen of a head's clusters by the images that were looked at.

    Args:
        looked: these.
        head: of them.
    """

    def __init__(self, looked: LookedAt, head: Head) -> None:
        self.label_S = head.label_A[looked.row_S]
        self.x_SD, self.row_S = looked.projected_SD, looked.row_S
        self.head = head
        order = np.argsort(self.label_S, kind='stable')
        clusters, first = np.unique(self.label_S[order], return_index=True)
        parts = np.split(order, first[1:])
        self._samples = dict(zip(clusters.tolist(), parts, strict=True))

    def samples(self, cluster: int) -> np.ndarray:
        """Its images, by their place in the sample; those drawn first come first."""
        return self._samples.get(cluster, np.zeros(0, np.int64))

    def center(self, cluster: int) -> np.ndarray | None:
        """Its center or, where the method has none, the mean direction of its images."""
        centers = self.head.center_KD
        if centers is not None:
            return centers[cluster]
        samples = self.samples(cluster)
        mean = self.x_SD[samples].mean(0) if len(samples) else np.zeros(self.x_SD.shape[1])
        return mean / max(np.linalg.norm(mean), 1e-12)

    def typical(self, cluster: int) -> int:
        """Row of the image nearest to its center; of any, if none was looked at."""
        samples = self.samples(cluster)
        if not len(samples):
            return int(self.head.members[cluster][0])
        return int(self.row_S[samples[self.similarity(cluster).argmax()]])

    def similarity(self, cluster: int) -> np.ndarray:
        """Of its images to its center, in the order of :meth:`samples`."""
        center = self.center(cluster)
        # Of nested clusterings, the first dimensions.
        x = self.x_SD[self.samples(cluster), : len(center)]
        return x @ center / np.maximum(np.linalg.norm(x, axis=1), 1e-12)


def galleries(looked: LookedAt, tiles: Tiles) -> list[dict]:
    """What the page shows of each head."""
    return [
        head_gallery(looked, *pair, tiles)
        for pair in list(zip(looked.heads, looked.choices, strict=True))[:MOST_HEADS]
    ]


def head_gallery(looked: LookedAt, head: Head, choice: Choice, tiles: Tiles) -> dict:
    """Some clusters of a head, by kinds, and the map of its centers."""
    seen = Seen(looked, head)
    kinds = dict(choice.kinds) | tight_kinds(seen, choice)
    filled = int((head.size_K > 0).sum())
    return dict(
        name=head.name,
        note=f'{filled:,} of {head.num_clusters:,} clusters have images',
        kinds=[
            dict(
                title=title,
                clusters=[
                    cluster_entry(looked, seen, choice, cluster, tiles)
                    for cluster in clusters.tolist()
                ],
            )
            for title, clusters in kinds.items()
            if len(clusters)
        ],
        map=center_map(looked, seen, choice, tiles),
    )


def tight_kinds(seen: Seen, choice: Choice) -> dict[str, np.ndarray]:
    """Where no classes tell pure clusters: the tightest and the loosest that were looked at."""
    if choice.purity is not None or 'Largest' not in choice.kinds:
        return {}
    found = [k for k in choice.looked_at if len(seen.samples(k)) > 2]
    order = np.argsort([-seen.similarity(k).mean() for k in found], kind='stable')
    found = np.array(found, np.int64)[order]
    of = f', of {len(found)} that were looked at'
    return {f'Tightest{of}': found[:NUM_OF_KIND], f'Loosest{of}': found[::-1][:NUM_OF_KIND]}


def cluster_entry(looked: LookedAt, seen: Seen, choice: Choice, cluster: int, tiles: Tiles) -> dict:
    """A cluster: its numbers, and two rows of pictures."""
    samples, similarity = seen.samples(cluster), seen.similarity(cluster)
    order = np.argsort(-similarity, kind='stable')[:NUM_SHOWN]
    note = [f'{seen.head.size_K[cluster]:,} images']
    if len(samples):
        note.append(f'similarity {similarity.mean():.2f}')
    if choice.purity is not None and choice.purity[1][cluster] >= 0:
        share, which = choice.purity[0][cluster], int(choice.purity[1][cluster])
        note.append(f'{share:.0%} {looked.classes.name(which)}')
    nearest = looked.row_S[samples[order]].tolist()
    random = seen.head.members[cluster][:NUM_SHOWN].tolist()
    # Of a cluster with few images both may be the same.
    rows = {'nearest': nearest, 'random': [] if set(random) <= set(nearest) else random}
    strips = [(name, [looked.tile(tiles, row) for row in found]) for name, found in rows.items()]
    strips = [(name, strip) for name, strip in strips if strip]
    return dict(name=f'{cluster}', note=' · '.join(note), strips=strips)


# ---- the map


def center_map(looked: LookedAt, seen: Seen, choice: Choice, tiles: Tiles) -> dict | None:
    """Centers on a grid, neighbours beside each other, each as an image of its cluster."""
    has_centers = seen.head.center_KD is not None
    clusters = [k for k in choice.on_map if has_centers or len(seen.samples(k))]
    if len(clusters) < 3:
        return None
    columns = min(MAP_COLUMNS, round((1.5 * len(clusters)) ** 0.5))
    places = on_grid(flat(np.stack([seen.center(k) for k in clusters])), columns)
    cells = []
    for cluster, (column, row) in zip(clusters, places.tolist(), strict=True):
        tile = looked.tile(tiles, seen.typical(cluster))
        size = seen.head.size_K[cluster]
        name = f'Cluster {cluster}, {size:,} images: {tile["name"]}'
        cells.append(dict(tile, name=name, column=column + 1, row=row + 1))
    cells.sort(key=lambda cell: (cell['row'], cell['column']))
    number = int((seen.head.size_K > 0).sum())
    drawn = f'{len(cells)} of {number:,}, drawn at random' if len(cells) < number else 'All'
    return dict(cells=cells, columns=columns, note=drawn)


def flat(x_KD: np.ndarray) -> np.ndarray:
    """Unit vectors in the plane, by t-SNE (K, 2)."""
    from sklearn.manifold import TSNE

    perplexity = max(2, min(30, (len(x_KD) - 1) / 4))
    # So few points have found their places by then.
    tsne = TSNE(perplexity=perplexity, init='pca', random_state=0, max_iter=500)
    return tsne.fit_transform(x_KD.astype(np.float32))


def on_grid(place_K2: np.ndarray, columns: int) -> np.ndarray:
    """Points moved to cells of a grid, as little as can be: columns and rows, int (K, 2)."""
    from scipy.optimize import linear_sum_assignment

    rows = -(-len(place_K2) // columns)
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    low, high = place_K2.min(0), place_K2.max(0)
    spread = (place_K2 - low) / np.maximum(high - low, 1e-9) * [columns - 1, rows - 1]
    costs = ((spread[:, None] - cells[None]) ** 2).sum(2)
    return cells[linear_sum_assignment(costs)[1]]


# ---- features


def feature_chart(name: str, title: str, looked: LookedAt) -> Chart:
    """t-SNE of the features of the images that were looked at.

    Coloured by class where there are up to :data:`MOST_CLASSES`, else by the largest clusters of
    the first head.
    """
    place_S2 = flat(looked.pooled_SC)
    groups, by = colour_groups(looked)
    figure, axes = new_figure(5.6, 4.2)
    axes.scatter(*place_S2.T, s=5, color='#999999', alpha=0.5, linewidths=0)
    for number, (label, samples) in enumerate(groups.items()):
        marker = 'o' if number < len(COLOURS) else '^'
        look = dict(s=9, color=COLOURS[number % len(COLOURS)], marker=marker, linewidths=0)
        axes.scatter(*place_S2[samples].T, label=label, **look)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    add_legend(figure, axes)
    for collection in axes.collections:
        collection.set_rasterized(True)
    note = f'{len(place_S2):,} images, coloured by {by}'
    return Chart(name, title, figure, note, f'{title}: {note}.')


def colour_groups(looked: LookedAt) -> tuple[dict[str, np.ndarray], str]:
    """Groups of the sample by what they are called, and what makes them."""
    classes = looked.classes
    if classes is not None and classes.class_A.max() < MOST_CLASSES:
        class_S = classes.class_A[looked.row_S]
        found = sorted(set(class_S[class_S >= 0].tolist()))
        return {classes.name(k): np.flatnonzero(class_S == k) for k in found}, 'class'
    if not looked.heads:
        return {}, 'nothing'
    head = looked.heads[0]
    label_S = head.label_A[looked.row_S]
    counts = np.bincount(label_S[label_S != UNASSIGNED], minlength=1)
    largest = np.argsort(-counts, kind='stable')[: len(COLOURS)]
    groups = {f'cluster {k}': np.flatnonzero(label_S == k) for k in largest.tolist() if counts[k]}
    return groups, f'cluster of {head.name}; grey: all others'


def neighbours(looked: LookedAt, tiles: Tiles) -> list[dict]:
    """Some images, and those of the sample that are nearest to each."""
    number = len(looked.row_S)
    if number < 2:
        return []
    queries = np.random.default_rng(2).permutation(number)[:NUM_QUERIES]
    found = []
    for query in queries.tolist():
        similarity = looked.pooled_SC @ looked.pooled_SC[query]
        similarity[query] = -np.inf
        nearest = np.argsort(-similarity, kind='stable')[: min(NUM_SHOWN, number - 1)]
        found.append(
            dict(
                query=looked.tile(tiles, looked.row_S[query]),
                nearest=[looked.tile(tiles, row) for row in looked.row_S[nearest]],
                note=f'similarity {similarity[nearest[0]]:.2f} to {similarity[nearest[-1]]:.2f}',
            )
        )
    return found
