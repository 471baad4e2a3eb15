"""Packaging: the source root is cli/, the import package byok8s (see docs/architecture.md)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="byok8s",
    version=next(
        line.split('"')[1]
        for line in (HERE / "cli/byok8s/__init__.py").read_text().splitlines()
        if line.startswith("__version__")
    ),
    description="Run a Snakemake workflow on your own Kubernetes cluster, with S3 as the storage",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    package_dir={"": "cli"},
    packages=find_packages("cli"),
    include_package_data=True,
    zip_safe=False,
    install_requires=(HERE / "requirements.txt").read_text().split(),
    extras_require={
        "dev": [
            line
            for line in (HERE / "requirements-dev.txt").read_text().split("\n")
            if line and not line.startswith("-r")
        ]
    },
    entry_points={"console_scripts": ["byok8s = byok8s.command:main"]},
)
