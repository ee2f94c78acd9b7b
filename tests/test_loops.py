"""An epoch that is taken up in its middle."""

import pytest
from torch.utils.data import DataLoader

from mmcoke.engine.loops import skip_batches


@pytest.mark.parametrize(
    'options', [{}, dict(num_workers=2), dict(num_workers=2, persistent_workers=True)]
)
def test_only_the_first_pass_leaves_batches_out(options):
    loader = DataLoader(list(range(10)), batch_size=2, **options)
    whole = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    skip_batches(loader, 3)
    assert len(loader) == 5
    assert [batch.tolist() for batch in loader] == whole[3:]
    assert [batch.tolist() for batch in loader] == whole
