"""Makes movie_reviews.train.jsonl.gz and movie_reviews.test.jsonl.gz, the binary sentiment task that ships with Garden.

    python garden/data/make_movie_reviews.py DIRECTORY

DIRECTORY holds `sentiment.train.jsonl.gz` and `sentiment.test.jsonl.gz`: sentences rated by people, from the package
vaderSentiment 3.3.2 (additional_resources/hutto_ICWSM_2014.tar.gz), one JSON object a line with `text`, `label` and `source`.
Taken are the sentences from movie reviews that are positive or negative. See movie_reviews.NOTICE.txt for authors and licence.
"""

import gzip
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
LABELS = ("negative", "positive")


def movie_reviews(source: Path) -> list[dict[str, str]]:
    """Returns the task's examples among the rated sentences of one gzipped JSONL file, in their order."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        {"text": row["text"], "label": row["label"]}
        for row in rows
        if row["source"] == "movie" and row["label"] in LABELS
    ]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows as gzipped JSONL; the same rows give the same bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(path, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode("utf-8"))


def main(directory: str) -> None:
    for split in ("train", "test"):
        rows = movie_reviews(Path(directory) / f"sentiment.{split}.jsonl.gz")
        write(HERE / f"movie_reviews.{split}.jsonl.gz", rows)
        print(f"{split}: {len(rows)} reviews")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python garden/data/make_movie_reviews.py DIRECTORY")
    main(sys.argv[1])
