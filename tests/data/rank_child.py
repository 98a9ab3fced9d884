"""Jobs of several ranks: what each rank runs, and what starts them."""

import json
import os
from pathlib import Path

import torch.distributed
import torch.multiprocessing
from torch.utils.data import DataLoader

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, TokenLoader, collate
from vidcomp.errors import ConfigError

SETTINGS = {"batch_size": 2, "shuffle": True, "seed": 7}


def run_ranks(world_size, job, folder, **options):
    """What ``job(folder, **options)`` returned on each rank of a gloo group."""
    out = Path(folder) / f"{job.__name__}-{world_size}"
    out.mkdir()
    arguments = (world_size, job, str(folder), str(out), options)
    torch.multiprocessing.spawn(_rank, arguments, nprocs=world_size)
    return [json.loads((out / str(rank)).read_text()) for rank in range(world_size)]


def _rank(rank, world_size, job, folder, out, options):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
    names |= {"LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world_size
    )
    result = job(folder, **options)
    Path(out, str(rank)).write_text(json.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def epochs_of_a_token_loader(folder):
    """Keys of an epoch; then of the next one up to a state, that state, and the rest."""
    loader = TokenLoader(Path(folder) / "cache", **SETTINGS)
    first = [list(batch.keys) for batch in loader]
    batches = iter(loader)
    begun = [list(next(batches).keys) for _ in range(2)]
    state = loader.state_dict()
    return {
        "first": first,
        "begun": begun,
        "state": state,
        "rest": [list(batch.keys) for batch in batches],
        "steps": len(loader),
        "repeated": loader.num_repeated,
    }


def rest_of_a_token_loader(folder, state):
    """Keys that are left of the epoch of a state, and how many of them come twice."""
    loader = TokenLoader(Path(folder) / "cache", **SETTINGS)
    loader.load_state_dict(state)
    repeated = loader.num_repeated
    rest = [list(batch.keys) for batch in loader]
    return {"rest": rest, "repeated": repeated, "next": loader.epoch}


def epochs_of_a_data_loader(folder):
    """Keys of an epoch through torch's own loader and a sampler that knows the ranks."""
    dataset = CachedTokenDataset(Path(folder) / "cache")
    sampler = TokenBatchSampler(dataset, **SETTINGS)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    return [list(batch.keys) for batch in loader]


def epochs_with_accelerate(folder):
    """Keys of an epoch of a prepared DataLoader, and of a TokenLoader beside an accelerator."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    dataset = CachedTokenDataset(Path(folder) / "cache")
    # accelerate deals the batches to the ranks itself.
    sampler = TokenBatchSampler(dataset, **SETTINGS, rank=0, world_size=1)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    prepared, own = accelerator.prepare(loader, TokenLoader(dataset, **SETTINGS))
    whole = [list(batch.keys) for batch in prepared]
    prepared.set_epoch(0)
    skipped = accelerator.skip_first_batches(prepared, 2)
    return {
        "ranks": accelerator.num_processes,
        "prepared": whole,
        "skipped": [list(batch.keys) for batch in skipped],
        "own": [list(batch.keys) for batch in own],
        "refused": _refused(accelerator, dataset),
    }


def _refused(accelerator, dataset):
    """What is said of a sampler that deals to ranks, too."""
    sampler = TokenBatchSampler(dataset, **SETTINGS)
    loader = accelerator.prepare(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))
    try:
        return str(len(list(loader)))
    except ConfigError as error:
        return str(error)


def fit_with_lightning(loader, folder, *, num_ranks):
    """Keys of each batch of two epochs that each rank of a Lightning run trained on."""
    import lightning

    class Seen(lightning.Callback):
        def on_train_start(self, *_):
            self.epochs = []

        def on_train_epoch_start(self, *_):
            self.epochs.append([])

        def on_train_batch_start(self, _trainer, _model, batch, _index):
            self.epochs[-1].append(list(batch.keys))

        def on_train_end(self, trainer, _model):
            Path(folder, f"seen-{trainer.global_rank}").write_text(json.dumps(self.epochs))

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(6, 1)

        def training_step(self, batch, _index):
            return self.net(batch.tokens.float()).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=num_ranks,
        strategy="ddp_fork",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Seen()],
    )
    trainer.fit(Model(), loader)
    return [json.loads(Path(folder, f"seen-{rank}").read_text()) for rank in range(num_ranks)]
