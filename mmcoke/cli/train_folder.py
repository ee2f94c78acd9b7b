"""Train on a folder of images: ``mmcoke train FOLDER`` and ``mmcoke.train``."""

import json
import os
import shlex
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.table import Table
from torch import nn

from mmcoke import zoo
from mmcoke.datasets import UnreadableImageError
from mmcoke.datasets.batches import unlabelled_batch
from mmcoke.datasets.listing import list_images
from mmcoke.datasets.reading import shorter_side
from mmcoke.engine.checkpoint import last_checkpoint, require_writable, saved_checkpoints
from mmcoke.engine.folder_settings import (
    Images,
    Machine,
    Setting,
    apply_settings,
    check_enough,
    choose_settings,
)
from mmcoke.engine.interruption import COMMAND, typed_words, without_resume
from mmcoke.engine.launch import train as train_config
from mmcoke.engine.run_length import zero_epochs
from mmcoke.engine.run_report import size_of_views
from mmcoke.engine.screen import captured_warnings
from mmcoke.engine.work_dir import resume_last, taken
from mmcoke.evaluation.view_agreement import ViewAgreement
from mmcoke.files import read_json, write_text
from mmcoke.messages import shown, some
from mmcoke.registry import DATASETS, MODELS
from mmcoke.zoo.index import index_file

from .options import home, merge_options
from .train_summary import (
    Summary,
    agreement_of,
    batches,
    clusters_of,
    commands,
    count_unreadable,
    quoted,
    readable,
    sample_rows,
    show,
    write_pages,
    write_summary,
)

RECIPE = 'selfsup/coke/coke_r18_1xb64-2view_folder.py'
"""Below ``configs``: what is filled in."""

CONFIG = 'config.py'
"""In the folder of a run: its config, complete in itself."""

START = 'start.json'
"""In the same folder: agreement of two views by the network that training began with."""

OF_OUR_RECIPE = ('image_size', 'stem', 'width', 'warmup')
"""Settings that another recipe has in its own way, and keeps."""

NETWORK = ('stem', 'width')
"""Settings that the network of ``--start-from`` has otherwise."""

CHOICES = ('epochs', 'batch_size', 'image_size', 'num_clusters', 'num_workers')
"""Settings with an option of their own."""

TRAIN = ('train', 'train.py')
"""By which the command is called."""

NUM_LOOKED_AT = 500
"""Images whose sizes are read before a training."""


class Trained(NamedTuple):
    """What a training on a folder has left.

    Attributes:
        checkpoint: the last one.
        config: builds the network of the checkpoint.
        report: a page about the run.
        gallery: a page with clusters of the images.
        summary: what was learned, see :class:`~mmcoke.cli.train_summary.Summary`.
    """

    checkpoint: Path
    config: Path
    report: Path
    gallery: Path
    summary: Summary


def train(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    start_from: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    num_clusters: Sequence[int] | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    resume: bool | str = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a network on the images in a folder, with settings that follow from them.

        trained = mmcoke.train('my/photos')
        extractor = mmcoke.FeatureExtractor(trained.config, trained.checkpoint)

    Prints the settings, a bar and what was learned; docs/train.md says more. Ctrl-C and other
    signals save, say how to go on, and end the program.

    Args:
        folder: of images, with or without subfolders. Those that cannot be read are left out.
        out: folder of the run; by default ``work_dirs/<name of the folder>``.
        config: another recipe of pre-training; its network, views and loss stay as they are.
        start_from: name of a model of the zoo, or a checkpoint, whose backbone training starts
            from.
        epochs, batch_size, image_size, num_clusters, num_workers: instead of those that follow
            from the images; ``epochs`` at a learning rate above 0.
        seed: of all random numbers.
        resume: go on with the run in ``out``, with its settings; or from this checkpoint.
        cfg_options: further settings of the config, by dotted key.

    Returns:
        See :class:`Trained`.

    Raises:
        ValueError: if there are too few images, a setting is impossible, or ``out`` holds a run
            and ``resume`` is not set.
        SystemExit: if the run was stopped by a signal, or cannot write its files.
    """
    options = {key: str(value) for key, value in (cfg_options or {}).items()}
    chosen = dict(epochs=epochs, batch_size=batch_size, image_size=image_size)
    chosen |= dict(num_clusters=num_clusters and list(num_clusters), num_workers=num_workers)
    folder = Path(home(os.fspath(folder)))
    out = Path(home(os.fspath(out))) if out else default_out(folder)
    given = dict(config=config, start_from=start_from, seed=seed, resume=resume)
    words = ['mmcoke', 'train', os.fspath(folder), '--out', os.fspath(out)]
    settings = chosen | dict(config=config, start_from=start_from, seed=seed or None)
    with goes_on_by([*words, *option_words(settings, options)]):
        return start(folder, out, chosen, options, **given)


def option_words(settings: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """Settings that were given, and those of ``cfg_options``, as options of the command."""
    words = []
    for name, value in settings.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f'--{name.replace("_", "-")}', *map(str, values)]
    given = [f'{key}={value}' for key, value in options.items()]
    return [*words, '--cfg-options', *given] if given else words


@contextmanager
def goes_on_by(words: Sequence[str]) -> Iterator[None]:
    """Let a run that is stopped name this command, for the one that Python was started by is not
    one of ours."""
    before = os.environ.get(COMMAND)
    os.environ[COMMAND] = before or shlex.join(words)
    try:
        yield
    finally:
        if before is None:
            del os.environ[COMMAND]


def main(args: Namespace) -> None:
    """The same, from a command line; what was typed is what goes on."""
    folder = Path(args.source)
    chosen = {name: getattr(args, name) for name in CHOICES}
    given = dict(config=args.config, start_from=args.start_from, seed=args.seed or 0)
    resume = True if args.resume == 'auto' else args.resume or False
    out = Path(args.out) if args.out else default_out(folder)
    start(folder, out, chosen, args.cfg_options, resume=resume, **given)


def start(
    folder: Path,
    out: Path,
    chosen: Mapping[str, Any],
    options: Mapping[str, str],
    *,
    config: str | Path | None,
    start_from: str | Path | None,
    seed: int,
    resume: bool | str,
) -> Trained:
    """Begin a run, or go on with it; arguments as for :func:`train`.

    Args:
        chosen: by the names of :data:`CHOICES`; None for what follows from the images.
        options: texts by dotted key.
    """
    console = Console(highlight=False)
    with DefaultScope.overwrite_default_scope('mmcoke'), captured_warnings():
        names = listed(folder, console)
        require_writable(out)
        with taken(out):
            if resume:
                cfg = resumed_config(out, folder, chosen)
                merge_options(cfg, options)
            else:
                refuse_used(out)
                recipe = dict(config=config, start_from=start_from, seed=seed)
                cfg, settings = chosen_config(folder, names, chosen, console, **recipe)
                unused = OF_OUR_RECIPE if config else NETWORK if start_from else ()
                show_settings(cfg, settings, unused, console)
                merge_options(cfg, options)
            cfg = saved_config(cfg, out)
            if not resume:
                with console.status('The network before training'):
                    before, length = measured(cfg)
                write_text(out / START, json.dumps(before._asdict()))
                say(console, length)
        return run(cfg, folder, resume, console)


def default_out(folder: Path) -> Path:
    """Where a run goes if nothing is said: ``work_dirs/<name of the folder>``."""
    return Path('work_dirs') / (folder.resolve().name or 'images')


def run(cfg: Config, folder: Path, resume: bool | str, console: Console) -> Trained:
    """Train, and say what was learned."""
    out, config = Path(cfg.work_dir), Path(cfg.filename)
    text = config.read_text(encoding='utf-8')
    if resume:
        go_on(cfg, resume)
    try:
        model = train_config(cfg)
    finally:
        write_text(config, text)  # without where this start began, which mmengine has added
    checkpoint = Path(last_checkpoint(out, saved_checkpoints(out)))
    size = size_of_views(cfg)
    found = Summary(
        read_agreement(out / START),
        agreement_of(model, cfg),
        clusters_of(model),
        count_unreadable(out),
    )
    write_summary(out / 'summary.json', found)
    with console.status('Looking at images, for two pages'):
        notes = write_pages(
            out,
            cfg,
            found,
            title=f'{cfg.model.type} on {shown(folder.resolve().name)}',
            command=command_again(),
            checkpoint=checkpoint,
            config=config,
            size=size,
        )
    for note in notes:
        say(console, note)
    show(console, found)
    tell_ending(console, folder, checkpoint, num_epochs(cfg), size)
    pages = (out / 'report.html', out / 'gallery.html')
    return Trained(checkpoint, config, *pages, found)


def command_again() -> str:
    """What was typed, with all options, for another start."""
    words = without_resume(typed_words())
    names = [number for number, word in enumerate(words) if Path(word).name in TRAIN]
    words = ['mmcoke', 'train', *words[names[0] + 1 :]] if names else words
    return ' '.join(map(quoted, words))


def tell_ending(console: Console, folder: Path, checkpoint: Path, epochs: int, size: int) -> None:
    """Say where all is, and what can be done with it."""
    out = checkpoint.parent
    say(console, f'Network: {shown(checkpoint)}')
    say(console, f'Report:  {shown(out / "report.html")}, and gallery.html beside it')
    say(console, 'Next:')
    for line in commands(folder, out, checkpoint, size, epochs):
        say(console, f'  {line}')


def say(console: Console, line: str) -> None:
    """A line as it is, however wide the terminal."""
    console.print(line, soft_wrap=True, markup=False)


# ---- the images


def listed(folder: Path, console: Console) -> list[str]:
    """Paths of the images below a folder.

    Raises:
        ValueError: if it is none, or has too few.
    """
    if not folder.is_dir():
        raise ValueError(f'There is no folder {shown(folder)}. Name one with images.')
    listing = list_images(folder)
    if listing.note():
        say(console, listing.note())
    check_enough(len(listing.images))
    return listing.images


def look_at(folder: Path, names: Sequence[str], console: Console) -> Images:
    """What the settings need to know of the images; some of them are opened.

    Raises:
        ValueError: if half of them cannot be read.
    """
    some_names = names[:: max(1, len(names) // NUM_LOOKED_AT)]
    sides, failed = [], []
    for name in some_names:
        try:
            sides.append(shorter_side(folder / name))
        except UnreadableImageError as error:
            failed.append(f'{name} ({error.reason})')
    if len(failed) >= len(some_names) / 2:
        raise ValueError(
            f'{len(failed):,} of {len(some_names):,} images that were looked at cannot be read: '
            f'{some(failed)}. Repair or remove them: mmcoke check folder FOLDER names all.'
        )
    if failed:
        say(
            console,
            f'{len(failed):,} of {len(some_names):,} images that were looked at cannot be read, '
            f'and are left out: {some(failed)}.',
        )
    return Images(len(names), int(median(sides)))


def this_machine() -> Machine:
    """What trains."""
    return Machine(torch.cuda.is_available(), len(os.sched_getaffinity(0)))


# ---- the config


def refuse_used(out: Path) -> None:
    """ValueError if a run in the folder would be overwritten; with the ways out."""
    if saved := saved_checkpoints(out):
        raise ValueError(
            f'{shown(out)} holds a run already ({saved[0].name}), which would be overwritten. Go '
            'on with it by the same command and --resume, or give another folder with --out.'
        )


def chosen_config(
    folder: Path,
    names: Sequence[str],
    chosen: Mapping[str, Any],
    console: Console,
    *,
    config: str | Path | None = None,
    start_from: str | Path | None = None,
    seed: int = 0,
) -> tuple[Config, dict[str, Setting]]:
    """The config that follows from the images in a folder, and its settings with their reasons.

    Args:
        folder: of the images.
        names: of all images, see :func:`listed`.
        chosen, config, start_from, seed: see :func:`start`.
    """
    images = look_at(folder, names, console)
    settings = choose_settings(images, this_machine(), chosen)
    return folder_config(folder, settings, config, start_from, seed), settings


def folder_config(
    folder: Path,
    settings: Mapping[str, Setting],
    config: str | Path | None,
    start_from: str | Path | None,
    seed: int,
) -> Config:
    """The recipe with its settings, on the images of a folder.

    Args:
        folder: of the images.
        settings: of :func:`~mmcoke.engine.folder_settings.choose_settings`.
        config, start_from, seed: see :func:`train`.
    """
    cfg = Config.fromfile(home(os.fspath(config)) if config else recipe())
    data = cfg.get('train_dataloader', {}).get('dataset', {})
    if not data.get('pipeline') or data.type not in ('CustomDataset', 'mmcoke.CustomDataset'):
        raise ValueError(
            f'{shown(cfg.filename)} does not read its images from a folder. Take a recipe whose '
            'train_dataloader.dataset is a CustomDataset, or leave --config out.'
        )
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=os.fspath(folder.resolve()),
        with_label=False,
        pipeline=data.pipeline,
    )
    left_out = OF_OUR_RECIPE if config else ()
    values = {name: one.value for name, one in settings.items() if name not in left_out}
    apply_settings(cfg, values)
    cfg.randomness.seed = seed
    if start_from:
        use_backbone_of(cfg, os.fspath(start_from))
    complete(cfg)
    return cfg


def recipe() -> Path:
    """The file that is filled in, of a checkout or an installed wheel."""
    return index_file().parent / 'configs' / RECIPE


def complete(cfg: Config) -> None:
    """Add what a run on somebody's folder needs: bar, patience with broken files, few files."""
    hooks = cfg.get('custom_hooks', [])
    cfg.custom_hooks = [dict(type='SkipUnreadableHook'), *hooks, dict(type='ProgressHook')]
    cfg.default_hooks.checkpoint.update(
        interval=max(1, cfg.train_cfg.max_epochs // 10), max_keep_ckpts=2
    )
    cfg.default_hooks.pop('report', None)  # there is one page, with what two views say
    cfg.quiet = True


def use_backbone_of(cfg: Config, source: str) -> None:
    """Let training start from the backbone of a checkpoint, or of a model of the zoo.

    The network is that of the config beside the checkpoint, ``config.py``, or of the zoo; else the
    recipe's.
    """
    path = Path(home(source))
    if path.is_file():
        beside = path.with_name(CONFIG)
        network = Config.fromfile(beside) if beside.is_file() else cfg
        checkpoint = path.resolve()
    else:
        entry = zoo.show(source)
        if entry.input != 'image':
            raise ValueError(f'{source} sees no images but edges. Start from another model.')
        network, checkpoint = Config.fromfile(entry.config), zoo.download(source)
    if network.model.backbone.get('in_channels', 3) != 3:
        raise ValueError(f'{source} does not see colour images. Start from another model.')
    start = dict(type='Pretrained', checkpoint=os.fspath(checkpoint))
    cfg.model.backbone = dict(network.model.backbone, init_cfg=start)


def saved_config(cfg: Config, out: Path) -> Config:
    """Write a config into the folder of its run; what stands there is what is trained."""
    cfg.work_dir = os.fspath(out)
    write_text(out / CONFIG, cfg.pretty_text)
    return Config.fromfile(out / CONFIG)


def resumed_config(out: Path, folder: Path, chosen: Mapping[str, Any]) -> Config:
    """The config of the run in a folder, to go on with.

    Raises:
        ValueError: if there is none, or a setting is to change that a run keeps.
    """
    if not (out / CONFIG).is_file():
        raise ValueError(f'There is no run in {shown(out)} to go on with. Leave --resume out.')
    cfg = Config.fromfile(out / CONFIG)
    kept = dict(
        batch_size=cfg.train_dataloader.batch_size,
        image_size=size_of_views(cfg),
        num_clusters=cfg.model.get('clustering', {}).get('num_clusters'),
    )
    for name, value in kept.items():
        if chosen[name] not in (None, value):
            raise ValueError(
                f'--{name.replace("_", "-")} was {value} when the run in {shown(out)} began, and '
                'stays so when it is resumed. Leave it out, or start another run with --out.'
            )
    cfg.train_dataloader.dataset.data_root = os.fspath(folder.resolve())
    cfg.model.backbone.pop('init_cfg', None)  # the file may be gone
    if chosen['epochs'] is not None:
        cfg.train_cfg.max_epochs += chosen['epochs'] - num_epochs(cfg)
    if chosen['num_workers'] is not None:
        cfg.train_dataloader.num_workers = chosen['num_workers']
    return cfg


def go_on(cfg: Config, resume: bool | str) -> None:
    """Let a run be resumed: from its last checkpoint, or from a certain one."""
    if isinstance(resume, str):
        cfg.merge_from_dict(dict(resume=True, load_from=home(resume)))
    else:
        resume_last(cfg)


def num_epochs(cfg: Config) -> int:
    """Epochs at a learning rate above 0."""
    return cfg.train_cfg.max_epochs - max(map(zero_epochs, cfg.param_scheduler), default=0)


# ---- before the first epoch


def show_settings(
    cfg: Config, settings: Mapping[str, Setting], unused: Sequence[str], console: Console
) -> None:
    """The table of settings, but for those that the recipe or the network has otherwise."""
    table = Table('setting', 'value', 'why')
    for name, (value, why) in settings.items():
        if name not in unused:
            text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(name.replace('_', ' '), text, why)
    rate = f'{cfg.optim_wrapper.optimizer.lr:g}'
    table.add_row('learning rate', rate, 'of the recipe, in proportion to the batch')
    console.print(table)


def measured(cfg: Config) -> tuple[ViewAgreement, str]:
    """Agreement of views by the network that training starts from; how long it will take."""
    model, epochs = untrained(cfg), cfg.train_cfg.max_epochs
    found = agreement_of(model, cfg)
    length = describe_length(seconds_per_epoch(model, cfg) * epochs)
    return found, (
        f'{epochs} epochs, the first without learning, will take about {length}, by one batch that '
        'was timed. Ctrl-C saves; --resume goes on.'
    )


def untrained(cfg: Config) -> nn.Module:
    """The network that training starts from, on the device that trains."""
    set_random_seed(cfg.randomness.seed)
    with unsaid():
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
    return model.to('cuda' if torch.cuda.is_available() else 'cpu')


@contextmanager
def unsaid() -> Iterator[None]:
    """Keep the log off the screen, as long as no run has one; the run will say it again."""
    logger = MMLogger.get_current_instance()
    handlers, logger.handlers = logger.handlers, []
    try:
        yield
    finally:
        logger.handlers = handlers


def seconds_per_epoch(model: nn.Module, cfg: Config) -> float:
    """Estimate by one batch: loaded, and passed forwards and backwards; the model is spoiled."""
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    model.init_labelers(len(dataset))
    found = batches(readable(dataset, sample_rows(len(dataset))), loader.batch_size)
    started = time.perf_counter()
    samples = unlabelled_batch(next(found))
    loading = time.perf_counter() - started
    model.train()
    for _ in range(2):  # the first one makes room
        started = time.perf_counter()
        loss = model(**model.data_preprocessor(samples, True), mode='loss')['loss']
        loss.backward()
        loss.item()
        step = time.perf_counter() - started
    workers = loader.num_workers
    per_batch = max(loading / workers, step) if workers else loading + step
    return per_batch * (len(dataset) // loader.batch_size)


def describe_length(seconds: float) -> str:
    """A time, to be read."""
    if seconds < 90:
        return f'{max(seconds, 1):.0f} seconds'
    minutes = seconds / 60
    return f'{minutes:.0f} minutes' if minutes < 90 else f'{minutes / 60:.1f} hours'


def read_agreement(path: Path) -> ViewAgreement | None:
    """What was noted when the run began; None of a run that was begun otherwise."""
    return ViewAgreement(**read_json(path, 'found', 'common')) if path.is_file() else None
