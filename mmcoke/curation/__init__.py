"""A folder of images, sorted: what clusters tell about it, in files that people can use.

The order of work is :func:`mmcoke.curation.sort.sort`, which is ``mmcoke.sort``.
"""

from .duplicates import kept, near_duplicates
from .hierarchy import coarser_levels
from .picks import coverage_picks

__all__ = ['coarser_levels', 'coverage_picks', 'kept', 'near_duplicates']
