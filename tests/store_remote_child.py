"""A writer to S3 in a process of its own, to be killed at the worst moment."""

import json
import sys
from pathlib import Path

from store_builders import IDENTITY, tiny

from vidcomp.store import CacheWriter
from vidcomp.store.remote import ObjectStorage


def video(number, rows):
    return tiny(n=rows, dim=64, seed=number, assign=None)


def main(url, options, staging, count, rows):
    storage = ObjectStorage(url, client_options=options, staging=Path(staging))
    with CacheWriter(storage, identity=IDENTITY) as writer:
        for number in range(count):
            writer.add(f"v{number}", video(number, rows))
        print("sealing", flush=True)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
