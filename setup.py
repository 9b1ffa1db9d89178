from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split("'")[1]
    for line in (HERE / 'mmseg_repvgg' / '__init__.py').read_text().splitlines()
    if line.startswith('__version__')
)

# torch and numpy are what both stacks need, in ranges that either satisfies. The stack
# itself is an extra, so that `pip install -e .` never overwrites an upstream
# mmsegmentation that is there: its packages and the maintained ones share their names
# of import (mmseg, mmengine, mmcv) but not of distribution.
setup(
    name='mmseg_repvgg',
    version=VERSION,
    description='RepVGG as a first-class backbone for MMSegmentation',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmseg_repvgg', 'mmseg_repvgg.*']),
    package_data={'mmseg_repvgg': ['py.typed']},
    install_requires=['torch>=2.1', 'numpy>=1.24', 'opencv-python>=4.7', 'pillow>=9'],
)
