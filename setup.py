import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = next(
    line.split("'")[1]
    for line in (HERE / 'mmseg_repvgg' / '__init__.py').read_text().splitlines()
    if line.startswith('__version__')
)

SAFETENSORS = ['safetensors>=0.4.1']
EXPORT = ['onnx>=1.17', 'onnxruntime>=1.19', 'onnxscript>=0.5', 'openvino>=2026.4.1']
QUANTIZE = ['nncf>=2.19']
PRUNE = ['torch-pruning>=1.5']
NCNN = ['ncnn>=1.0.20250503', 'pnnx>=20250530']
CITYSCAPES = ['cityscapesscripts>=2.2']
TENSORBOARD = ['tensorboard>=2.18']
RAY = ['ray[data]>=2.50', 'fsspec>=2024.6']
HUB = [*SAFETENSORS, 'huggingface_hub>=0.33.5']
TIFF = ['tifffile>=2024.5.22']
NOTEBOOK = ['ipykernel>=6.29', 'nbclient>=0.10']
WEB = ['gradio>=6.17.3']
DOCS = ['mkdocs>=1.6', 'mkdocs-material>=9.5', 'mkdocstrings[python]>=0.28']


class BuildWithTools(build_py):
    """Copy what the command runs and what mim looks for into the wheel.

    An editable install uses the checkout itself.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmseg_repvgg', '.mim')
        shutil.rmtree(target, ignore_errors=True)  # An earlier build may have left files.
        for folder in ('configs', 'tools', 'demo', 'benchmarks'):
            without = shutil.ignore_patterns('__pycache__')
            shutil.copytree(HERE / folder, target / folder, ignore=without)
        shutil.copy(HERE / 'model-index.yml', target)


# The maintained forks (onedl-*) are the default because they install on current Python,
# torch and numpy. Their packages import as mmseg, mmengine and mmcv, like upstream's.
# With upstream's, use `pip install --no-deps -e .`. CI tests the lower ends of the ranges
# (requirements/oldest.txt).
setup(
    name='mmseg_repvgg',
    version=VERSION,
    description='RepVGG as a first-class backbone for MMSegmentation',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    classifiers=[
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(
        include=['mmseg_repvgg', 'mmseg_repvgg.*', 'repvgg_runtime', 'repvgg_runtime.*']
    ),
    package_data={
        'mmseg_repvgg': ['py.typed', 'report/page.*'],
        'repvgg_runtime': ['kernels/*.cpp', 'kernels/*.h'],
    },
    cmdclass={'build_py': BuildWithTools},
    entry_points={'console_scripts': ['mmseg-repvgg = repvgg_runtime.command:main']},
    install_requires=[
        'torch>=2.4',
        'numpy>=2.0.1',
        'opencv-python>=4.10.0.84',
        'pillow>=10.4',
        'onedl-mmsegmentation>=1.4',
        'onedl-mmengine>=0.10.12',
        'onedl-mmcv>=2.3.2',
        'matplotlib>=3.9',
        'prettytable>=3.12',
        'rich>=13.5.2',
        'jinja2>=3.1',
    ],
    extras_require={
        # Checkpoints without pickle.
        'safetensors': SAFETENSORS,
        # ONNX Runtime and OpenVINO.
        'export': EXPORT,
        # int8 files for OpenVINO.
        'quantize': [*EXPORT, *QUANTIZE],
        # Removing channels of a fused network.
        'prune': PRUNE,
        # The forms of tools/benchmark.py in ncnn.
        'ncnn': NCNN,
        # The official download and evaluation.
        'cityscapes': CITYSCAPES,
        # Curves and sample predictions of a run.
        'tensorboard': TENSORBOARD,
        # Images on a cluster, and in object stores.
        'ray': RAY,
        # Images of other than three bands.
        'tiff': TIFF,
        # A page in the browser.
        'web': WEB,
        # Models on the Hugging Face hub.
        'hub': HUB,
        # docs/street_scenes.ipynb, in a browser.
        'notebook': [*NOTEBOOK, 'jupyterlab>=4'],
        # The site of docs/.
        'docs': DOCS,
        # All of these, but no browser for notebooks; the tests and the linters.
        'dev': [
            'pytest>=9',
            'pytest-cov>=6',
            'pytest-xdist>=3.6',
            'ruff>=0.9',
            'mypy>=1.13',
            'codespell>=2.3',
            'pre-commit>=3',
            'pre-commit-hooks>=5',
            'build>=1.2.1',
            'litserve>=0.2.10',
            'playwright>=1.50',
            'setuptools>=70.1',
            *SAFETENSORS,
            *EXPORT,
            *QUANTIZE,
            *PRUNE,
            *NCNN,
            *CITYSCAPES,
            *TENSORBOARD,
            *HUB,
            *RAY,
            *TIFF,
            *NOTEBOOK,
            *WEB,
            *DOCS,
        ],
    },
)
