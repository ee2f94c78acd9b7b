"""mmengine's side of checkpoints: written whole, found again."""

from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend

from mmcoke.files import read_checkpoint, readable_classes, write_whole

# So that plain torch.load reads checkpoints of a training, too, with weights_only.
torch.serialization.add_safe_globals(readable_classes())


@register_backend('whole_files')
class WholeFilesBackend(LocalBackend):
    """mmengine's local files, written under another name first and then renamed.

    For ``CheckpointHook(backend_args=dict(backend='whole_files'))``: a checkpoint is complete or
    not there.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(Path(filepath), lambda path: path.write_bytes(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


def checkpoint_to_resume(work_dir: str | Path, checkpoint: str | None = None) -> str | None:
    """The checkpoint to go on from: the given one, or the last one in a work dir.

    Args:
        work_dir: where the run saves its checkpoints.
        checkpoint: path of a certain one; None for the last.

    Returns:
        A path that :func:`torch.load` can read, or None if there is no checkpoint yet.

    Raises:
        ValueError: if the checkpoint is missing or damaged; names the one before it.
    """
    saved = sorted(Path(work_dir).glob('*_*.pth'), key=lambda path: path.stat().st_mtime)
    if checkpoint is None:
        note = Path(work_dir) / 'last_checkpoint'
        noted = note.read_text().strip() if note.is_file() else ''
        checkpoint = noted if Path(noted).is_file() else next(map(str, reversed(saved)), None)
    if checkpoint is None or '://' in checkpoint:
        return checkpoint
    try:
        read_checkpoint(checkpoint, map_location='meta')
    except (OSError, ValueError) as error:
        damaged = Path(checkpoint).resolve()
        others = [str(path) for path in saved if path.resolve() != damaged]
        remedy = f'Resume from the one before: --resume {others[-1]}' if others else 'Start anew.'
        raise ValueError(f'Cannot resume: {error} {remedy}') from error
    return checkpoint
