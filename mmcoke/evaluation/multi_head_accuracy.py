"""Accuracy of several classifiers of the same images."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from mmcoke.registry import METRICS


@METRICS.register_module()
class MultiHeadAccuracy(BaseMetric):
    """Top-k accuracy, in %, of the classifier of each stage, and of the best of them.

    Keeps which images are hits, not their scores: 25 thousand images with 8 thousand classes and
    five heads would be 4 GB.

    Gives ``stage0/top1``, ``stage0/top5`` ... and, for the stage with the highest accuracy for the
    first k, ``best/stage``, ``best/top1`` ...

    Args:
        topk: numbers of guesses, the one that decides first.
        **kwargs: see mmengine's ``BaseMetric``.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Note the hits of one batch: for each image, stage by stage, one per k.

        Raises:
            ValueError: if there are fewer classes than guesses.
        """
        logits_nSK = torch.stack([sample['stage_logits'] for sample in data_samples])
        label_n = torch.cat([sample['gt_label'] for sample in data_samples])
        most, num_classes = max(self.topk), logits_nSK.shape[-1]
        if most > num_classes:
            raise ValueError(
                f'{num_classes} classes have no top-{most} accuracy: set topk in val_evaluator and '
                'test_evaluator.'
            )
        guesses = logits_nSK.topk(most, dim=-1).indices
        is_right = guesses == label_n[:, None, None].to(guesses.device)
        hits = torch.stack([is_right[..., :k].any(-1) for k in self.topk], dim=-1)
        self.results += hits.tolist()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Accuracies of all images."""
        accuracy_ST = 100 * torch.tensor(results, dtype=torch.float64).mean(0)
        metrics = {
            f'stage{stage}/top{k}': accuracy.item()
            for stage, accuracy_T in enumerate(accuracy_ST)
            for k, accuracy in zip(self.topk, accuracy_T, strict=True)
        }
        best = int(accuracy_ST[:, 0].argmax())
        metrics['best/stage'] = best
        return metrics | {f'best/top{k}': metrics[f'stage{best}/top{k}'] for k in self.topk}
