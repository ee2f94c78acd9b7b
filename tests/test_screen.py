"""What of a log is on the screen, and what a progress bar says of clusters."""

import logging
import warnings

from mmengine.logging import MMLogger, print_log

from mmcoke.engine.hooks.progress_hook import health
from mmcoke.engine.screen import captured_warnings, quieten


def as_if_in(module, text):
    """Run code as if it stood in a module."""
    exec(text, dict(__name__=module, print_log=print_log, logging=logging, warnings=warnings))


def test_our_warnings_and_all_errors_are_seen_the_rest_is_in_the_file(tmp_path, capfd):
    log = tmp_path / 'run.log'
    logger = MMLogger.get_instance('test_screen', log_file=str(log))
    with captured_warnings():
        quieten(logger)
        as_if_in('mmcoke.x', "print_log('ours', logger='current', level=logging.WARNING)")
        as_if_in('mmcoke.x', "print_log('ours: a detail', logger='current')")
        as_if_in('mmengine.x', "print_log('theirs', logger='current', level=logging.WARNING)")
        as_if_in('mmengine.x', "print_log('an error', logger='current', level=logging.ERROR)")
        as_if_in('torch.x', "warnings.warn('of a library')")
    said = capfd.readouterr()
    assert said.err.splitlines() == ['ours', 'an error']
    assert said.out == ''
    text = log.read_text()
    for words in ('ours', 'ours: a detail', 'theirs', 'an error', 'of a library'):
        assert words in text


def test_clusters_in_words():
    coke = [dict(changed=0.5, num_small=2, min_size=3), dict(changed=0.1, num_small=1)]
    assert health(coke) == ['relabelled: 30 %', 'small clusters: 3']
    assert health([dict(nmi=0.4, min_size=3)]) == []
