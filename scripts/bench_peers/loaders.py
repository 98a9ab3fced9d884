"""The peers: each writes the records through its own writer and reads them through its own loader.

Every sample is tokens (bfloat16 as int16, which all of them can hold) and one [N, 6] tensor of
positions, spans and mass; every batch is packed: rows end to end and the count of each sample.
Batches are joined in the workers straight into shared memory, as torch's own collate does it.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_store_parts.raw import RawStore
from torch import Tensor
from torch.utils.data import get_worker_info

Batch = tuple[Tensor, Tensor, Tensor]
"""Tokens [S, D] int16, geometry [S, 6] float32, counts [B] int64."""

_SHARD_BYTES = 64 << 20


def join(items: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Samples end to end; in a worker, in shared memory at once."""
    counts = torch.tensor([len(tokens) for tokens, _ in items])
    return _cat([t for t, _ in items]), _cat([g for _, g in items]), counts


def _cat(parts: Sequence[Tensor]) -> Tensor:
    if get_worker_info() is None:
        return torch.cat(list(parts))
    first, rows = parts[0], sum(map(len, parts))
    size = (rows, *first.shape[1:])
    storage = first._typed_storage()._new_shared(rows * first[0].numel(), device=first.device)
    return torch.cat(list(parts), out=first.new(storage).resize_(size))


def samples(raw: RawStore) -> Iterable[tuple[str, Tensor, Tensor]]:
    """Key, tokens as int16 and geometry of each record."""
    for i, key in enumerate(raw.keys):
        record = raw.record(i)
        geometry = torch.cat([record.positions, record.spans, record.mass[:, None]], dim=1)
        yield key, record.tokens.view(torch.int16), geometry


# -- LitData -------------------------------------------------------------------------------------


def write_litdata(raw: RawStore, folder: Path) -> None:
    """Its ``optimize`` in chunks of 64 MB, its documented size."""
    import litdata

    litdata.optimize(
        fn=_LitSample(raw),
        inputs=list(range(len(raw))),
        output_dir=str(folder),
        chunk_bytes=_SHARD_BYTES,
        num_workers=1,
    )


class _LitSample:
    """Record ``i`` as a dictionary of tensors."""

    def __init__(self, raw: RawStore) -> None:
        self.data = [(tokens, geometry) for _, tokens, geometry in samples(raw)]

    def __call__(self, i: int) -> dict[str, Tensor]:
        tokens, geometry = self.data[i]
        return {"tokens": tokens.clone(), "geometry": geometry}


def load_litdata(folder: Path, _: RawStore, batch: int, workers: int) -> Iterable[Batch]:
    """Its ``StreamingDataset`` and ``StreamingDataLoader``."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False)
    return litdata.StreamingDataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=_join_named,
    )


def _join_named(items: Sequence[dict[str, Any]]) -> Batch:
    return join([(_tensor(item["tokens"]), _tensor(item["geometry"])) for item in items])


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values)


# -- WebDataset ----------------------------------------------------------------------------------


def write_webdataset(raw: RawStore, folder: Path) -> None:
    """Its ``ShardWriter``; plain bytes, which is what it reads fastest."""
    import webdataset

    folder.mkdir(parents=True)
    pattern = str(folder / "%06d.tar")
    with webdataset.ShardWriter(pattern, maxsize=_SHARD_BYTES, verbose=0) as writer:
        for i, (_, tokens, geometry) in enumerate(samples(raw)):
            writer.write(
                {
                    "__key__": f"{i:07d}",
                    "tokens.bin": tokens.numpy().tobytes(),
                    "geometry.bin": geometry.numpy().tobytes(),
                }
            )


def load_webdataset(folder: Path, raw: RawStore, batch: int, workers: int) -> Iterable[Batch]:
    """Shards in random order, a buffer of samples shuffled, batches made in the workers."""
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
        .shuffle(200)
        .map(_Parse(raw.dim))
        .batched(batch, collation_fn=join)
    )
    return webdataset.WebLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=True
    )


class _Parse:
    """Tensors over a sample's bytes."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():  # the bytes cannot be written to, and nobody does
            warnings.simplefilter("ignore")
            tokens = torch.frombuffer(sample["tokens.bin"], dtype=torch.int16)
            geometry = torch.frombuffer(sample["geometry.bin"], dtype=torch.float32)
        return tokens.view(-1, self.dim), geometry.view(-1, 6)


# -- MosaicML streaming --------------------------------------------------------------------------


def write_mds(raw: RawStore, folder: Path) -> None:
    """Its ``MDSWriter`` with typed arrays, not compressed, in its default shards of 64 MB."""
    from streaming import MDSWriter

    columns = {"tokens": f"ndarray:int16:{raw.counts[0]},{raw.dim}"}
    if len(set(raw.counts)) > 1:  # shapes differ, so they are kept beside the values
        columns = {"tokens": "ndarray:int16"}
    columns["geometry"] = "ndarray:float32"
    with MDSWriter(out=str(folder), columns=columns, size_limit=_SHARD_BYTES) as writer:
        for _, tokens, geometry in samples(raw):
            writer.write({"tokens": tokens.numpy(), "geometry": geometry.numpy()})


def load_mds(folder: Path, _: RawStore, batch: int, workers: int) -> Iterable[Batch]:
    """Its ``StreamingDataset`` on local shards and its ``StreamingDataLoader``."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    return StreamingDataLoader(
        dataset,
        batch_size=batch,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=_join_copied,
    )


def _join_copied(items: Sequence[dict[str, Any]]) -> Batch:
    with warnings.catch_warnings():  # as above
        warnings.simplefilter("ignore")
        return _join_named(items)


# -- vidcomp -------------------------------------------------------------------------------------


def load_vidcomp(folder: Path, _: RawStore, batch: int, workers: int) -> Iterable[Any]:
    """Our loader, hashes checked, with as many threads as the others have workers."""
    from vidcomp.data import TokenLoader
    from vidcomp.store import TokenCache

    return TokenLoader(TokenCache(folder), batch_size=batch, num_threads=workers, shuffle=True)


WRITERS = {"litdata": write_litdata, "webdataset": write_webdataset, "mds": write_mds}
LOADERS = {
    "vidcomp": load_vidcomp,
    "litdata": load_litdata,
    "webdataset": load_webdataset,
    "mds": load_mds,
}
DISTRIBUTIONS = {name: name for name in LOADERS} | {"mds": "mosaicml-streaming"}
"""Name of each one's package."""
