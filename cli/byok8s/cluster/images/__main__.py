"""Builds the worker image, or writes the folder from which Docker builds it.

python3 -m byok8s.cluster.images build [--with REQUIREMENT]...
python3 -m byok8s.cluster.images context FOLDER [--with REQUIREMENT]...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from byok8s import settings
from byok8s.cluster.images import worker_image
from byok8s.cluster.images.recipe import Recipe
from byok8s.exceptions import Byok8sError
from byok8s.progress import reporter


def main() -> int:
    """Run one of the two; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m byok8s.cluster.images")
    parser.add_argument("what", choices=("build", "context"))
    parser.add_argument("folder", nargs="?", type=Path, help="written by 'context'")
    parser.add_argument(
        "--with",
        dest="extra",
        action="append",
        default=[],
        metavar="REQUIREMENT",
        help="a further pip requirement to put in",
    )
    given = parser.parse_args()
    if given.what == "context":
        if given.folder is None:
            parser.error("'context' needs the folder to write")
        Recipe.load(given.extra).write(given.folder)
        return 0
    try:
        built = worker_image(settings.cache_folder(), reporter(), tuple(given.extra))
    except Byok8sError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(built.ref, built.archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
