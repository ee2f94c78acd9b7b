"""What of a run's numbers means trouble, and which setting to change: rules, as pure functions.

A rule takes what is known of a run (:class:`Facts`) and, of each clustering, the numbers of its
epochs so far, the lines of ``cluster_stats.jsonl``; it gives one :class:`Advice` or nothing. A
false alarm is worse than a miss: thresholds are far from what healthy runs of the recipes have,
and most rules want to see the same thing for several epochs. docs/monitor.md has them as a table.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from shlex import quote
from typing import NamedTuple

Row = Mapping[str, float]
History = Mapping[str, Sequence[Row]]
"""Of each clustering, by its name, the numbers of the epochs that are finished, in order."""

NUM_EPOCHS = 5
"""For which something must last before it is called trouble."""

GAP = 0.3
"""g of docs/methods/coke.md: similarity that an empty cluster makes up within an epoch."""

LARGEST_MOVE, WRONG_MOVE = 0.05, 0.1
"""By which one image may move a dual, well below what similarities differ by; and may not."""

FEWEST_IMAGES, ENOUGH_IMAGES = 5, 25
"""Per cluster, in the mean: of fewer there is a warning; what is advised instead."""

FEWEST_NORMALIZED, ENOUGH_NORMALIZED = 8, 32
"""Images of a batch that batch norm sees; see above."""

LOWER_LR = 1 / 10
"""Times the learning rate, where that seems too high."""


class Advice(NamedTuple):
    """What was seen, why that is so, and what to change.

    Attributes:
        saw: with numbers.
        why: as a sentence.
        setting: ``KEY=VALUE ...``, as after ``--cfg-options``.
        advice: what that does, as a sentence.
        clustering: name of the clustering where it was seen; None if it is about the whole run.
    """

    saw: str
    why: str
    setting: str
    advice: str
    clustering: str | None = None

    def __str__(self) -> str:
        where = f'{self.clustering}: ' if self.clustering else ''
        options = ' '.join(map(quote, self.setting.split()))  # some shells read [] themselves
        return f'{where}{self.saw}. {self.why} {self.advice} (--cfg-options {options})'


class Facts(NamedTuple):
    """What a run is, as far as rules need it.

    Attributes:
        method: name of the algorithm.
        clustering: its settings, ``model.clustering`` of the config.
        num_clusters: K of each clustering, by its name.
        num_images: A, of the data set.
        batch_size: images of an iteration in one process.
        num_processes: of the run.
        num_normalized: images of a batch that a layer of batch norm sees; None without such.
        lr: learning rate, as in the config.
        max_epochs: of the run.
        dual_lr: η of the duals, for the images of an iteration; None if there are no duals.
        min_ratio: γ, the lower bound of a cluster's size in shares of the mean size, with duals.
        other_epochs: first ones, in which something else than clusters is learned.
    """

    method: str
    clustering: Mapping[str, object]
    num_clusters: Mapping[str, int]
    num_images: int
    batch_size: int
    num_processes: int
    num_normalized: int | None
    lr: float
    max_epochs: int
    dual_lr: float | None = None
    min_ratio: float = 0.0
    other_epochs: int = 0

    @property
    def iteration(self) -> int:
        """N: images of an iteration on all processes, a step of the duals."""
        return self.batch_size * self.num_processes

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of equal shares, in the mean over the clusterings."""
        logs = [math.log(k) for k in self.num_clusters.values()]
        return sum(logs) / len(logs)


def advice_before(facts: Facts) -> dict[str, Advice]:
    """What can be known before training, by the name of the rule."""
    found = {rule.__name__: rule(facts) for rule in (many_clusters, small_batch_norm)}
    return {name: advice for name, advice in found.items() if advice}


def advice_after(facts: Facts, history: History) -> dict[str, Advice]:
    """What the epochs so far show, by the name of the rule.

    Args:
        facts: of the run.
        history: not empty; all clusterings have the same epochs.
    """
    found = {rule.__name__: rule(facts, history) for rule in RULES}
    return {name: advice for name, advice in found.items() if advice}


# ---- before training


def many_clusters(facts: Facts) -> Advice | None:
    """K is too large for the number of images."""
    name, most = max(facts.num_clusters.items(), key=lambda item: item[1])
    if facts.num_images >= FEWEST_IMAGES * most:
        return None
    return Advice(
        f'{most:,} clusters for {facts.num_images:,} images, '
        f'{facts.num_images / most:.1f} in each on average',
        'So few have little in common but chance: clusters tell images apart, not kinds.',
        fewer_clusters(facts),
        f'Take {ENOUGH_IMAGES} images per cluster or more.',
        name,
    )


def small_batch_norm(facts: Facts) -> Advice | None:
    """Batch norm has too few images for its statistics."""
    seen = facts.num_normalized
    if seen is None or seen >= FEWEST_NORMALIZED:
        return None
    batch = min(ENOUGH_NORMALIZED, max(2, facts.num_images // facts.num_processes))
    return Advice(
        f'Batch norm sees {seen} images at a time',
        'Their mean and deviation are mostly noise, in which all images of a batch share.',
        f'train_dataloader.batch_size={batch}',
        f'Take {batch} images per process or more.',
    )


# ---- the rates of duals


def oscillating_duals(facts: Facts, history: History) -> Advice | None:
    """Duals are thrown about, and decide the labels instead of the images: η is too large."""
    if facts.dual_lr is None or facts.dual_lr <= WRONG_MOVE * facts.iteration:
        return None
    for name, rows in history.items():
        last = rows[-NUM_EPOCHS:]
        if lasts(last, lambda row: row.get('margin', 0) < 0 and row['positive_duals'] > 0.5):
            move = facts.dual_lr / facts.iteration
            return Advice(
                f'Images are farther from their own center than from the next one (margin '
                f'{last[-1]["margin"]:.2f}), while duals go up to {last[-1]["max_dual"]:.2f}',
                f'One image moves a dual by {move:.2f}, more than similarities differ, so duals '
                'decide the labels.',
                dual_setting(facts, fitting_dual_lr(facts)),
                'Lower the rate of the duals.',
                name,
            )
    return None


def starved_clusters(facts: Facts, history: History) -> Advice | None:
    """Clusters stay below their bound although their duals grow: η is too small."""
    if facts.dual_lr is None:
        return None
    for name, rows in history.items():
        last = after_peak(rows)[-NUM_EPOCHS:]
        if lasts(last, lambda row: starved(facts, row)):
            row, k = last[-1], facts.num_clusters[name]
            why, setting, advice = remedy_for_starved(facts, row, k)
            return Advice(
                f'{row["num_small"]:.0f} of {k} clusters are below their lower bound and '
                f'{row["num_empty"]:.0f} empty, {row["violation"]:.0%} of all images are missing '
                f'to it, for {NUM_EPOCHS} epochs',
                why,
                setting,
                advice,
                name,
            )
    return None


def starved(facts: Facts, row: Row) -> bool:
    """Whether a quarter of what the lower bound wants is missing, where it wants much."""
    return row['violation'] > max(facts.min_ratio / 4, 0.05)


def gain(facts: Facts, num_clusters: int) -> float:
    """By how much an epoch without an image raises a dual: η γ A / (K N)."""
    share = facts.min_ratio / num_clusters
    return facts.dual_lr * share * facts.num_images / facts.iteration


def fitting_dual_lr(facts: Facts) -> float:
    """η = g K N / (γ A), of the largest K, and no more than one image may move a dual by."""
    most = max(facts.num_clusters.values())
    rate = GAP * most * facts.iteration / (facts.min_ratio * facts.num_images)
    return min(rate, LARGEST_MOVE * facts.iteration)


def remedy_for_starved(facts: Facts, row: Row, num_clusters: int) -> tuple[str, str, str]:
    """Why, the setting, and what that does: a larger η, or smaller steps if features are alike."""
    if has_collapsed(row):
        why = 'Features have come so close to each other that no cluster is nearer than another.'
        return why, lower_lr(facts.lr), 'Lower the learning rate.'
    largest = LARGEST_MOVE * facts.iteration
    gained = f'A cluster without images gains {gain(facts, num_clusters):.2g} of similarity in an '
    if facts.dual_lr < largest / 1.5:
        rate = min(max(fitting_dual_lr(facts), 3 * facts.dual_lr), largest)
        why = f'{gained}epoch, too little to win some.'
        return why, dual_setting(facts, rate), 'Raise the rate of the duals.'
    why = f'{gained}epoch, and one image moves a dual by as much as it may.'
    return why, fewer_clusters(facts), 'Take fewer clusters.'


# ---- collapse


def one_cluster(facts: Facts, history: History) -> Advice | None:
    """One cluster takes most images, and no lower bound keeps it from that."""
    for name, rows in history.items():
        last, k = after_peak(rows)[-NUM_EPOCHS:], facts.num_clusters[name]
        if k < 4 or not lasts(last, lambda row: row['max_size'] > facts.num_images / 2):
            continue
        if facts.dual_lr is not None and starved(facts, last[-1]):
            continue  # there is a bound, and it is not kept: another rule
        share = last[-1]['max_size'] / facts.num_images
        setting, advice = remedy_for_one(facts)
        return Advice(
            f'One of {k} clusters has {share:.0%} of all images, the {k} are as uneven as '
            f'{last[-1]["perplexity"]:.1f} equal ones, for {NUM_EPOCHS} epochs',
            'Labels that are nearly all the same teach the network to make all images alike.',
            setting,
            advice,
            name,
        )
    return None


def remedy_for_one(facts: Facts) -> tuple[str, str]:
    """A bound that keeps clusters even, where the method has one; else smaller steps."""
    if facts.dual_lr is not None:
        ratio = 0.4 if facts.min_ratio < 0.2 and facts.method != 'SeCu' else 0.9
        return f'model.clustering.min_ratio={ratio}', 'Raise the lower bound of the sizes.'
    if facts.clustering.get('constraint') == 'entropy':
        alpha = 2 * float(facts.clustering.get('alpha', 6000.0))
        alpha = max(alpha, 0.12 * facts.num_images)
        return f'model.clustering.alpha={alpha:.3g}', 'Raise the weight of the entropy.'
    return lower_lr(facts.lr), 'Lower the learning rate.'


def constant_features(facts: Facts, history: History) -> Advice | None:
    """The features of all images are nearly the same."""
    last = after_peak(first_of(history))[-NUM_EPOCHS:]
    if not lasts(last, lambda row: row.get('feature_std', 1) < 0.1):
        return None
    return Advice(
        f'Features of different images are nearly the same (standard deviation '
        f'{last[-1]["feature_std"]:.3f}, where 1 is spread everywhere and 0 a point), for '
        f'{NUM_EPOCHS} epochs',
        'Steps that are too large take a network there, and clusters of such features are chance.',
        lower_lr(facts.lr),
        'Lower the learning rate.',
    )


def loss_at_chance(facts: Facts, history: History) -> Advice | None:
    """The loss stays where equal shares for all clusters have it: ln K."""
    rows, chance = first_of(history), facts.chance_loss
    # At the end of a schedule, a classifier that is made anew has no steps left to learn by.
    peak = max(row.get('lr', 0.0) for row in rows)
    learned = clusters_learned(facts, rows)
    last = [row for row in learned if row['lr'] >= peak / 10][-2 * NUM_EPOCHS :]
    if not lasts(last, lambda row: abs(row['loss'] / chance - 1) < 0.02, 2 * NUM_EPOCHS):
        return None
    before, now = (mean(row['loss'] for row in half) for half in halves(last))
    if now < 0.99 * before:
        return None
    return Advice(
        f'The loss has been {now:.2f} in the mean of {NUM_EPOCHS} epochs and before that '
        f'{before:.2f}; who knows nothing and gives all clusters the same share has ln K = '
        f'{chance:.2f}',
        'The network does not learn to tell the clusters from each other.',
        *remedy_for_chance(facts, rows),
    )


def remedy_for_chance(facts: Facts, rows: Sequence[Row]) -> tuple[str, str]:
    """Steps of another size: larger ones where features are still those of the first epoch."""
    first, now = (row.get('effective_rank', 0.0) for row in (rows[0], rows[-1]))
    if first and 0.9 < now / first < 1.1:
        advice = 'Raise the learning rate: features are still those of the beginning.'
        return other_lr(facts.lr, 10), advice
    return lower_lr(facts.lr), 'Lower the learning rate.'


# ---- labels and losses


def unsettled_labels(facts: Facts, history: History) -> Advice | None:
    """In the second half of a run labels are still dealt out anew in every epoch."""
    for name, rows in history.items():
        last = clusters_learned(facts, rows)[2 * NUM_EPOCHS :][-2 * NUM_EPOCHS :]
        if len(rows) < facts.max_epochs / 2 or not lasts(last, has_labels, 2 * NUM_EPOCHS):
            continue
        before, now = (mean(row['nmi'] for row in half) for half in halves(last))
        changed = min(row['changed'] for row in last)
        if changed > 0.8 and now < min(chance_nmi(facts, name) + 0.05, before + 0.03):
            setting, advice = remedy_for_unsettled(facts, last[-1])
            return Advice(
                f'{last[-1]["changed"]:.0%} of the labels change in an epoch (NMI with the epoch '
                f'before {now:.2f}), after {len(rows)} of {facts.max_epochs} epochs',
                'What is learned in one epoch is wrong in the next.',
                setting,
                advice,
                name,
            )
    return None


def has_labels(row: Row) -> bool:
    """Whether there were labels in the epoch before."""
    return 'nmi' in row


def remedy_for_unsettled(facts: Facts, row: Row) -> tuple[str, str]:
    """A rate of duals that lets images decide, if it does not; fewer clusters; smaller steps."""
    if facts.dual_lr is not None and facts.dual_lr > WRONG_MOVE * facts.iteration:
        return dual_setting(facts, fitting_dual_lr(facts)), 'Lower the rate of the duals.'
    if not has_collapsed(row) and too_many(facts):
        return fewer_clusters(facts), 'Take fewer clusters.'
    return lower_lr(facts.lr), 'Lower the learning rate.'


def chance_nmi(facts: Facts, name: str) -> float:
    """About the NMI of labels that have nothing to do with each other, where they are few."""
    k = facts.num_clusters[name]
    return (k - 1) ** 2 / (2 * facts.num_images * math.log(k)) if k > 1 else 1.0


def diverging_loss(facts: Facts, history: History) -> Advice | None:
    """The loss is far above that of equal shares for all clusters."""
    rows = first_of(history)
    losses, chance = [row.get('loss', 0.0) for row in rows], facts.chance_loss
    # Of cosines at a low temperature, the first labels make it twice as high for some epochs.
    last = after_peak(rows)[-NUM_EPOCHS:]
    if not (losses[-1] > 20 * chance or lasts(last, lambda row: row['loss'] > 2 * chance)):
        return None
    return Advice(
        f'The loss is {losses[-1]:.3g} in epoch {len(rows)}; equal shares for all clusters have '
        f'ln K = {chance:.2f}',
        'Steps that are too large lead away from what was learned.',
        lower_lr(facts.lr),
        'Lower the learning rate.',
    )


RULES: tuple[Callable[[Facts, History], Advice | None], ...] = (
    diverging_loss,
    constant_features,
    oscillating_duals,
    starved_clusters,
    one_cluster,
    loss_at_chance,
    unsettled_labels,
)
"""Asked after each epoch. What comes first is a cause of what comes later."""


# ---- settings


def fewer_clusters(facts: Facts) -> str:
    """All numbers of clusters by one factor, so that the largest has enough images."""
    most = max(facts.num_clusters.values())
    target = max(2, facts.num_images // ENOUGH_IMAGES)
    counts = [max(2, k * target // most) for k in facts.num_clusters.values()]
    several = isinstance(facts.clustering.get('num_clusters'), (list, tuple))
    value = f'[{",".join(map(str, counts))}]' if several else counts[0]
    setting = f'model.clustering.num_clusters={value}'
    if facts.dual_lr is None:
        return setting
    # The rate belongs to the number of clusters.
    return f'{setting} {dual_setting(facts, facts.dual_lr * max(counts) / most)}'


def dual_setting(facts: Facts, dual_lr: float) -> str:
    """The rate for the images of an iteration, as the config has it."""
    base = facts.clustering.get('dual_lr_base_batch_size') or facts.iteration
    return f'model.clustering.dual_lr={dual_lr * float(base) / facts.iteration:.2g}'


def lower_lr(lr: float) -> str:
    """A learning rate below that of the config."""
    return other_lr(lr, LOWER_LR)


def other_lr(lr: float, times: float) -> str:
    """A multiple of the learning rate of the config."""
    return f'optim_wrapper.optimizer.lr={times * lr:.2g}'


# ---- rows


def has_collapsed(row: Row) -> bool:
    """Whether features are far nearer to each other than in healthy runs."""
    return row.get('feature_std', 1) < 0.4


def too_many(facts: Facts) -> bool:
    """Whether the clusters are more than one would advise."""
    return facts.num_images < ENOUGH_IMAGES * max(facts.num_clusters.values())


def first_of(history: History) -> Sequence[Row]:
    """Rows of the first clustering: what all share is in each."""
    return next(iter(history.values()))


def after_peak(rows: Sequence[Row]) -> Sequence[Row]:
    """Those behind the epoch with the highest learning rate: none while that still rises."""
    rates = [row.get('lr', 0.0) for row in rows]
    return rows[rates.index(max(rates)) + 1 :]


def clusters_learned(facts: Facts, rows: Sequence[Row]) -> Sequence[Row]:
    """Of :func:`after_peak`, those in which nothing but clusters is learned."""
    return [row for row in after_peak(rows) if row['epoch'] > facts.other_epochs]


def lasts(rows: Sequence[Row], holds: Callable[[Row], bool], number: int = NUM_EPOCHS) -> bool:
    """Whether there are so many rows, and it holds in all."""
    return len(rows) >= number and all(map(holds, rows))


def halves(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
