"""Where a config's paths lead: below the working directory, or inside an installed package."""

import importlib.util
from pathlib import Path

PACKAGE = "package:"


def located(path: str | Path) -> Path:
    """Returns the file or directory that a path of a config or command names; it need not exist.

    `package:garden/data/movie_reviews.train.jsonl.gz` is `data/movie_reviews.train.jsonl.gz` inside the installed
    package `garden`, which is found without being imported. Any other path is the file system's.

    Raises FileNotFoundError when there is no such package.
    """
    text = str(path)
    if not text.startswith(PACKAGE):
        return Path(text).expanduser()
    name, *inside = text[len(PACKAGE) :].split("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # a module without a place of its own, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'{text}: no package "{name}" is installed; install it, or give a plain path')
    candidates = [Path(place, *inside) for place in spec.submodule_search_locations]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])
