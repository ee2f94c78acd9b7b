"""Compare the lower bound on cluster sizes with balanced clusters and with no constraint, on
digits.

Runs the quickstart with each recipe and seed (what is there already is kept), prints the medians
and draws the distribution of cluster sizes:

    python benchmarks/coke_constraints.py --seeds 0 1 2
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmcoke.files import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    'lower bound 0.4': 'coke_tiny_1xb64_digits.py',
    'balanced': 'coke_tiny_1xb64-balanced_digits.py',
    'no constraint': 'coke_tiny_1xb64-unconstrained_digits.py',
}
SCORES = ('cluster_acc', 'nmi', 'ari', 'knn', 'linear')


def run(recipe: str, seed: int, folder: Path) -> Path:
    """Work dir of a finished quickstart with this recipe and seed."""
    work_dir = folder / f'{Path(recipe).stem}_seed{seed}'
    if not (work_dir / 'metrics.json').is_file():
        script = [sys.executable, str(ROOT / 'tools/quickstart.py'), '--seed', str(seed)]
        config = str(ROOT / 'configs/selfsup/coke' / recipe)
        arguments = ['--config', config, '--work-dir', str(work_dir)]
        subprocess.run([*script, *arguments], check=True, stdout=subprocess.DEVNULL)
    return work_dir


def cluster_sizes(work_dir: Path) -> list[torch.Tensor]:
    """Sizes of the clusters, by the newest label of each image, of each clustering."""
    checkpoint = max(work_dir.glob('epoch_*.pth'), key=lambda path: int(path.stem.split('_')[1]))
    state = read_checkpoint(checkpoint)['state_dict']
    labels = [value for name, value in state.items() if name.endswith('labels.label')]
    centers = [value for name, value in state.items() if name.endswith('kmeans.centers')]
    return [
        torch.bincount(label[label >= 0].long(), minlength=len(center))
        for label, center in zip(labels, centers, strict=True)
    ]


def draw(sizes: dict[str, list[torch.Tensor]], path: Path) -> None:
    """Histograms of cluster size over balanced size, all clusterings and seeds together."""
    figure = Figure(figsize=(8, 2.6), layout='constrained')
    for axes, (name, counts) in zip(figure.subplots(1, 3, sharey=True), sizes.items(), strict=True):
        ratio = torch.cat([count * len(count) / count.sum() for count in counts])
        axes.hist(ratio.clamp(max=4).numpy(), bins=torch.arange(0, 4.2, 0.2).numpy())
        axes.axvline(0.4, linestyle=':', color='black')
        axes.set(title=name, xlabel='cluster size / balanced size')
    figure.axes[0].set_ylabel('clusters')
    figure.savefig(path, metadata={'Date': None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/constraints'))
    args = parser.parse_args()

    # Alternating: a slow phase of the machine meets all recipes alike.
    jobs = [(name, seed) for seed in args.seeds for name in RECIPES]
    work_dirs = {name: [] for name in RECIPES}
    for name, seed in track(jobs, 'training'):
        work_dirs[name].append(run(RECIPES[name], seed, args.work_dir))

    seeds = ', '.join(map(str, args.seeds))
    heads = ('acc', 'NMI', 'ARI', 'kNN', 'linear', 'smallest', 'largest')
    table = Table('recipe', *heads, title=f'Digits, medians of seeds {seeds}')
    sizes = {name: [s for w in dirs for s in cluster_sizes(w)] for name, dirs in work_dirs.items()}
    for name, dirs in work_dirs.items():
        metrics = [json.loads((work_dir / 'metrics.json').read_text())['coke'] for work_dir in dirs]
        medians = [statistics.median(m[score] for m in metrics) for score in SCORES]
        ratios = [count * len(count) / count.sum() for count in sizes[name]]
        extremes = [min(r.min() for r in ratios), max(r.max() for r in ratios)]
        table.add_row(name, *(f'{value:.3f}' for value in medians), *(f'{x:.2f}' for x in extremes))
    console = Console()
    console.print(table)
    console.print('smallest, largest: of all clusters, size over balanced size')
    draw(sizes, args.work_dir / 'cluster_sizes.svg')


if __name__ == '__main__':
    main()
