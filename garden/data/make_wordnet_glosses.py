"""Makes wordnet_glosses.jsonl.gz, the corpus of definitions that ships with Garden.

    python garden/data/make_wordnet_glosses.py DIRECTORY

DIRECTORY holds WordNet 3.0's `data.noun`, `data.verb`, `data.adj` and `data.adv`, as Debian's package `wordnet-base` installs
them in /usr/share/wordnet. A line for each of the 117,659 sets of synonyms: `text`, its words and its gloss (a definition,
perhaps with examples), and `label`, the lexicographer file that it is in (45 of them, such as noun.animal), which says what it
is about. The format is that of the manual page wndb(5). See wordnet_glosses.NOTICE.txt for authors and licence.
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
# Of lexnames(5), in the order of their numbers.
LEXICOGRAPHER_FILES = [
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
]


def glosses(source: Path) -> Iterator[dict[str, str]]:
    """Yields what a data file says of each set of synonyms, in its order."""
    with open(source, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence
                continue
            fields, gloss = line.rstrip().split(" | ", 1)
            _, file, _, count, *rest = fields.split(" ")
            words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
            yield {"text": f"{', '.join(words)}: {gloss.strip()}", "label": LEXICOGRAPHER_FILES[int(file)]}


def main(directory: str) -> None:
    rows = [row for part in PARTS_OF_SPEECH for row in glosses(Path(directory) / f"data.{part}")]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target = HERE / "wordnet_glosses.jsonl.gz"
    with open(target, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode("utf-8"))
    print(f"{len(rows)} glosses, {len(text.encode()) / 1e6:.1f} MB, {target.stat().st_size / 1e6:.1f} MB packed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python garden/data/make_wordnet_glosses.py DIRECTORY")
    main(sys.argv[1])
