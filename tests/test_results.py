import hashlib
import json

import numpy as np
import pytest
import torch

from mmcoke import __version__
from mmcoke.reporting.results import write_results


def write(folder, rows, **kwargs):
    path = write_results(folder, 'knn', rows, protocol='k = 20.', **kwargs)
    return json.loads(path.read_text()), path.with_suffix('.md').read_text()


def test_json_has_all_digits_and_the_table_four(tmp_path):
    rows = [dict(features='pooled', k=20, top1=75.123456789), dict(features='pooled', ap=0.5)]
    record, table = write(tmp_path / 'new', rows)
    assert record['rows'] == rows
    lines = table.splitlines()
    assert lines[2:6] == [
        '| features | k | top1 | ap |',
        '| --- | --- | --- | --- |',
        '| pooled | 20 | 75.12 |  |',
        '| pooled |  |  | 0.5000 |',
    ]


def test_the_checkpoint_is_known_by_name_and_hash(tmp_path):
    weights = tmp_path / 'epoch_3.pth'
    weights.write_bytes(b'weights' * 1000)
    record, table = write(tmp_path, [dict(top1=1)], config='configs/a.py', checkpoint=weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert record['checkpoint'] == dict(name='epoch_3.pth', sha256=digest[:8])
    assert (record['config'], record['protocol']) == ('configs/a.py', 'k = 20.')
    assert record['versions']['mmcoke'] == __version__
    assert torch.__version__.startswith(record['versions']['torch'])
    for text in ('epoch_3.pth', digest[:8], 'configs/a.py', 'k = 20.', record['date']):
        assert text in table
    assert str(tmp_path) not in table


def test_numbers_of_numpy_and_torch_are_plain_numbers(tmp_path):
    rows = [dict(a=np.float32(0.5), b=np.int64(3), c=torch.tensor(2.0), d=float('nan'))]
    record, table = write(tmp_path, rows)
    assert record['rows'] == [dict(a=0.5, b=3, c=2.0, d=None)]
    assert '| 0.5000 | 3 | 2.000 |  |' in table


def test_scores_per_class_are_in_the_json_only(tmp_path):
    record, table = write(tmp_path, [dict(mean_ap=0.5, ap=np.array([0.25, 0.75]))])
    assert record['rows'][0]['ap'] == [0.25, 0.75]
    assert '| mean_ap |\n' in table


def test_numbers_of_a_column_have_as_many_digits(tmp_path):
    numbers = [54.0, 38.6666, 100.0, 5011.0]
    table = write(tmp_path, [dict(top1=number) for number in numbers])[1]
    assert table.splitlines()[4:8] == ['| 54.00 |', '| 38.67 |', '| 100.0 |', '| 5011 |']


def test_a_bar_does_not_end_a_cell(tmp_path):
    assert r'| a\|b |' in write(tmp_path, [dict(name='a|b')])[1]


def test_no_rows_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match='knn'):
        write(tmp_path, [])
    with pytest.raises(FileNotFoundError):
        write(tmp_path, [dict(a=1)], checkpoint=tmp_path / 'absent.pth')
    assert not list(tmp_path.iterdir())
