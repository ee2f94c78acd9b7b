"""VOC07 SVM and low-shot SVM on frozen features: tools/benchmarks/voc_svm.py."""

import argparse

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.registry import DefaultScope

from mmcoke.datasets.voc import CLASSES, RESIZE, Images, read_devkit
from mmcoke.evaluation import low_shot_svm, voc_svm
from mmcoke.evaluation.svm import low_shot_samples
from mmcoke.features.backbones import FrozenNetwork, load_frozen
from mmcoke.features.plain_images import config_loader, feature_pipeline
from mmcoke.features.store import FEATURES, extract_to_disk

from .frozen_network import load_config, progress_bar, report, run

STAGES = tuple(f'stage{stage}' for stage in range(5))
PROTOCOL = (
    'shorter side 256, then 224x224; pooled maps, L2-normalized; linear SVMs (squared hinge), '
    'costs 1, 10, 100, 2^-4 ... 2^-19; test AP in percent, averaged over the classes'
)
FULL = 'cost of each class by 3-fold cross-validation; ignored training images'
LOW_SHOT = (
    'k positives and 19k negatives per class; mean and deviation of 5 samples (seed {}). by_test: '
    'the cost with the best test AP, as in published figures, which is too good; by_cv: for each '
    'sample the cost with the best cross-validated AP, none for k = 1'
)


def main(args: argparse.Namespace) -> None:
    run(benchmark, args)


def benchmark(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, fit, write the average precisions."""
    splits = read_devkit(args.voc_root)
    samples = None
    if args.low_shot:
        samples = low_shot_samples(splits['trainval'].targets, shots=args.shots, seed=args.seed)
    cfg = load_config(args)
    network = load_frozen(cfg, args.checkpoint)
    records = [dict(img_path=path) for path in splits['trainval'].paths[:3]]
    pipeline = feature_pipeline(network, RESIZE, config_loader(cfg, records))
    with DefaultScope.overwrite_default_scope('mmcoke'):
        images = {name: Images(split.paths, pipeline) for name, split in splits.items()}
    arrays = {name: extract(args, network, name, images[name], device) for name in splits}
    if not is_main_process():
        return
    full, few = [], []
    for stage in map(STAGES.__getitem__, sorted(set(args.stages))):
        train, test = (
            torch.from_numpy(np.array(arrays[name][stage])).to(device) for name in splits
        )
        targets = splits['trainval'].targets, splits['test'].targets
        full.append(full_row(args, stage, train, targets[0], test, targets[1]))
        if args.low_shot:
            few += low_shot_rows(args, stage, train, samples, test, targets[1])
    if len(full) > 1:
        best = max(full, key=lambda row: row['mean_ap'])
        full.append(best | dict(features='best', stage=best['features']))
    ignored = 'count as negatives, as in the published tools' if args.parity else 'are left out'
    report(args, name_of(args), full, f'{PROTOCOL}; {FULL} {ignored}')
    if args.low_shot:
        report(args, 'voc_low_shot_svm', few, f'{PROTOCOL}; {LOW_SHOT.format(args.seed)}')


def extract(
    args: argparse.Namespace,
    network: FrozenNetwork,
    name: str,
    images: Images,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Features of all stages of a part of the devkit; what is there is not made again."""
    return extract_to_disk(
        network,
        images,
        args.out / 'features' / f'voc07_{name}',
        {stage: FEATURES[stage] for stage in STAGES},
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device,
        progress=progress_bar(f'Extracting {name}'),
    )


def full_row(args: argparse.Namespace, stage: str, *sets) -> dict:
    """Result of the SVMs on all training images; ``sets`` are the arguments of ``voc_svm``."""
    found = voc_svm(
        *sets,
        parity=args.parity,
        folder=args.out / name_of(args) / stage,
        progress=progress_bar(f'SVM, {stage}'),
    )
    by_class = {
        key: dict(zip(CLASSES, values, strict=True))
        for key, values in (('ap', 100 * found['ap']), ('cost', found['cost']))
    }
    sizes = dict(num_train=len(sets[0]), num_test=len(sets[2]))
    return dict(features=stage, mean_ap=100 * found['mean_ap'], **sizes, **by_class)


def low_shot_rows(args: argparse.Namespace, stage: str, *sets) -> list[dict]:
    """Results for each k; ``sets`` are the arguments of ``low_shot_svm``."""
    found = low_shot_svm(
        *sets,
        folder=args.out / 'voc_low_shot_svm' / stage,
        progress=progress_bar(f'Low-shot SVM, {stage}'),
    )
    rows = []
    chosen = zip(found['shots'], found['by_test_ap'], found['by_cross_validation'], strict=True)
    for k, *ways in chosen:
        row = dict(features=stage, k=k)
        for way, result in zip(('by_test', 'by_cv'), ways, strict=True):
            row[f'mean_ap_{way}'] = result and 100 * result['mean']
            row[f'std_{way}'] = result and 100 * result['std']
            row[f'cost_{way}'] = result and result['cost']
        rows.append(row)
    return rows


def name_of(args: argparse.Namespace) -> str:
    """Of the results on all training images."""
    return 'voc_svm_parity' if args.parity else 'voc_svm'
