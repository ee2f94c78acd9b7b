"""Packaging of mmcoke. The settings of ruff and pytest are in pyproject.toml."""

import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
EXTRAS = ('lite', 'full', 'cpu', 'gpu', 'mmselfsup', 'det', 'zoo', 'onnx', 'tests')
MIM_ITEMS = ('configs', 'tools', 'model-index.yml')


def read_requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.in').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def read_version() -> str:
    # Read, not imported: what mmcoke needs is not yet installed where it is built.
    source = (ROOT / 'mmcoke' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE)[1]


class BuildElsewhere(build):
    """Builds in a temporary folder: a build/ that stays puts deleted modules into later wheels."""

    def initialize_options(self):
        super().initialize_options()
        self.scratch = tempfile.TemporaryDirectory(prefix='mmcoke-build-')
        self.build_base = self.scratch.name


class BuildWithMim(build_py):
    """Adds mmcoke/.mim, where mim and mmengine look for a package's configs and tools."""

    def run(self):
        super().run()
        if self.editable_mode:
            self.link_mim()
        else:
            self.copy_mim()

    def link_mim(self):
        mim = ROOT / 'mmcoke' / '.mim'
        mim.mkdir(exist_ok=True)
        for name in MIM_ITEMS:
            link = mim / name
            link.unlink(missing_ok=True)
            link.symlink_to(Path('..', '..', name))

    def copy_mim(self):
        mim = Path(self.build_lib) / 'mmcoke' / '.mim'
        for name in MIM_ITEMS:
            source = ROOT / name
            if source.is_dir():
                skip = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, mim / name, ignore=skip, dirs_exist_ok=True)
            else:
                shutil.copy2(source, mim / name)


setup(
    name='mmcoke',
    version=read_version(),
    description='Clustering-based self-supervised learning of images: CoKe, ODC, DeepCluster',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmcoke authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=['computer vision', 'self-supervised learning', 'clustering', 'OpenMMLab'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmcoke', 'mmcoke.*']),
    package_data={'mmcoke.reporting': ['templates/*.html'], 'mmcoke.zoo': ['weights/*.pth']},
    entry_points={'console_scripts': ['mmcoke = mmcoke.cli.main:main']},
    python_requires='>=3.10',
    install_requires=read_requirements('base'),
    extras_require={name: read_requirements(name) for name in EXTRAS},
    cmdclass={'build': BuildElsewhere, 'build_py': BuildWithMim},
    zip_safe=False,
)
