"""What TensorBoard is given: the numbers of the log, also of runs that were stopped."""

import json
import signal

import pytest
import spy_hook  # noqa: F401 (SignalHook)
from conftest import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmcoke.engine.hooks.cluster_monitor_hook import STATS
from mmcoke.engine.launch import train
from mmcoke.engine.work_dir import resume_last


def curves_in(work_dir):
    """Of each run in a work dir, in order, ``{name: {step: value}}``."""
    found = []
    for path in sorted(work_dir.rglob('events.out.tfevents.*')):
        events = EventAccumulator(str(path)).Reload()
        names = events.Tags()['scalars']
        found.append({name: {x.step: x.value for x in events.Scalars(name)} for name in names})
    return found


def test_curves_are_the_numbers_of_the_monitor_in_each_run_of_a_work_dir(tmp_path):
    cfg = tiny('coke', tmp_path, num_images=320)
    # In the third epoch, of five iterations each.
    stop = dict(type='SignalHook', iteration=13, signum=int(signal.SIGINT))
    cfg.custom_hooks.append(stop)
    with pytest.raises(SystemExit):
        train(cfg)
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.resume = True
    cfg.train_cfg.max_epochs = 4
    resume_last(cfg)
    train(cfg)
    rows = [json.loads(line) for line in (tmp_path / STATS).read_text().splitlines()]
    expected = {row['epoch']: row['perplexity'] for row in rows if row['clustering'] == 'coke/12'}
    first, second = (run['clusters/coke/12/perplexity'] for run in curves_in(tmp_path))
    assert sorted(first) == [1, 2] and sorted(second) == [3, 4]
    assert first | second == pytest.approx(expected)


def test_losses_are_curves_as_well(tmp_path):
    cfg = tiny('swav', tmp_path, num_images=320)
    cfg.default_hooks.logger.interval = 5
    train(cfg)
    (curves,) = curves_in(tmp_path)
    assert sorted(curves['loss']) == [5, 10, 15]
