"""Coverage-guided fuzzing of the store's parsers with atheris.

    python tests/fuzz/fuzz_store.py TARGET [options of libFuzzer] [folder of a corpus]
    python tests/fuzz/fuzz_store.py index -max_total_time=600 /tmp/corpus
    python tests/fuzz/fuzz_store.py index crash-0123...          (tries one finding again)

TARGET is one of index, shard, journals, manifest, record, planes, pin, meta.  Put a finding into
``tests/fuzz/crashers/TARGET-what-it-is``: the normal tests try it from then on.
"""

import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE)]

with atheris.instrument_imports(include=["vidcomp.store"]):
    import store_targets


def main() -> None:
    """Fuzz the target that the command line names."""
    _, target, *options = sys.argv
    corpus = Path(tempfile.mkdtemp(prefix="vidcomp-corpus-"))
    for number, data in enumerate(store_targets.seeds()[target]):
        (corpus / str(number)).write_bytes(data)
    alone = any(Path(option).is_file() for option in options)
    folders = [] if alone else [str(corpus)]
    if not any(Path(option).is_dir() for option in options) and not alone:
        folders.insert(0, tempfile.mkdtemp(prefix="vidcomp-found-"))
    limits = ["-rss_limit_mb=3000", "-timeout=20", "-max_len=40000"]
    atheris.Setup(
        [sys.argv[0], *limits, *options, *folders],
        lambda data: store_targets.accepts(target, data) and None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
