"""The same in what trains: Lightning, accelerate, several ranks."""

import logging

import pytest
import rank_child
import torch
from data_cases import STEPS, VIDEOS, keys_of, sampled, token_loader

from vidcomp.data import TokenLoader
from vidcomp.errors import ConfigError

torchdata_warns = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
lightning_warns = pytest.mark.filterwarnings("ignore")  # of all kinds, on its own account


# --- Lightning ---


@pytest.fixture
def fit(monkeypatch):
    """``fit(loader, ...)``: (epoch, step, keys) of all steps of a run of three epochs."""
    lightning = pytest.importorskip("lightning")
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(6, 1)
            self.seen = []

        def training_step(self, batch, index):
            self.seen.append((self.current_epoch, index, batch.keys))
            return self.net(batch.tokens.float()).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    class Save(lightning.Callback):
        def __init__(self, step, path):
            self.step, self.path = step, path

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == self.step:
                trainer.save_checkpoint(self.path)

    def run(loader, *, resume=None, save=None):
        model = Model()
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[] if save is None else [Save(*save)],
        )
        trainer.fit(model, loader, ckpt_path=resume)
        return model.seen

    return run


def as_counted(epochs):
    return [(e, i, keys) for e, epoch in enumerate(epochs) for i, keys in enumerate(epoch)]


@lightning_warns
@pytest.mark.parametrize("kind", ["TokenLoader", "StatefulDataLoader"])
@pytest.mark.parametrize("step", [3, STEPS, STEPS + 2])
def test_lightning_goes_on_from_a_checkpoint(cache, epochs, fit, tmp_path, kind, step):
    def loader():
        if kind == "TokenLoader":
            return token_loader(cache)
        module = pytest.importorskip("torchdata.stateful_dataloader")
        return sampled(cache, module.StatefulDataLoader)

    path = tmp_path / "run.ckpt"
    assert fit(loader(), save=(step, path)) == as_counted(epochs)
    assert fit(loader(), resume=path) == as_counted(epochs)[step:]


@lightning_warns
def test_lightning_trains_on_a_data_loader_with_the_sampler(cache, epochs, fit):
    assert fit(sampled(cache)) == as_counted(epochs)


def test_a_sampler_that_lightning_makes_anew_is_refused(cache):
    """It would lose all settings, and with several ranks most of the videos."""
    data = pytest.importorskip("lightning.pytorch.utilities.data")
    loader = sampled(cache)
    theirs = torch.utils.data.DistributedSampler(loader.dataset, num_replicas=2, rank=0)
    with pytest.raises(ConfigError, match=r"got a DistributedSampler.*use_distributed_sampler"):
        data._update_dataloader(loader, theirs)


# --- accelerate ---


@pytest.fixture
def accelerator():
    """Makes accelerators on the CPU, each as in a new process."""
    accelerate = pytest.importorskip("accelerate")

    def make(**options):
        accelerate.state.AcceleratorState._reset_state(True)
        accelerate.state.GradientState._reset_state()
        config = accelerate.DataLoaderConfiguration(**options)
        return accelerate.Accelerator(cpu=True, dataloader_config=config)

    yield make
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
def test_accelerate_prepares_a_data_loader(cache, epochs, accelerator, num_workers):
    loader = accelerator().prepare(sampled(cache, num_workers=num_workers))
    assert len(loader) == STEPS
    assert [keys_of(loader) for _ in range(3)] == epochs


@torchdata_warns
def test_accelerate_skips_batches_of_the_epoch_it_resumes(cache, epochs, accelerator):
    made = accelerator()
    loader = made.prepare(sampled(cache))
    seen = []
    for epoch in range(1, 3):
        loader.set_epoch(epoch)
        active = made.skip_first_batches(loader, 2) if epoch == 1 else loader
        seen.append(keys_of(active))
    assert seen == [epochs[1][2:], epochs[2]]


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("epoch", "steps"), [(0, 1), (0, STEPS), (1, 4), (1, STEPS)])
def test_accelerate_saves_and_loads_a_stateful_loader(
    cache, epochs, accelerator, tmp_path, num_workers, epoch, steps
):
    """Accelerate counts epochs from 0 in each process, so who resumes says which one it is."""
    pytest.importorskip("torchdata.stateful_dataloader")
    made = accelerator(use_stateful_dataloader=True)
    first = made.prepare(sampled(cache, num_workers=num_workers))
    assert [keys_of(first) for _ in range(epoch)] == epochs[:epoch]
    batches = iter(first)
    for _ in range(steps + (steps == STEPS)):  # to the very end of the loop
        next(batches, None)
    made.save_state(tmp_path)
    made = accelerator(use_stateful_dataloader=True)
    again = made.prepare(sampled(cache, num_workers=num_workers))
    made.load_state(tmp_path)
    rest = []
    for number in range(epoch + (steps == STEPS), 3):
        again.set_epoch(number)
        rest.append(keys_of(again))
    assert rest == [left for left in (epochs[epoch][steps:], *epochs[epoch + 1 :]) if left]


@torchdata_warns
@pytest.mark.parametrize("steps", [2, STEPS])
def test_accelerate_checkpoints_a_token_loader(cache, epochs, accelerator, tmp_path, steps):
    made = accelerator()
    loader = made.prepare(token_loader(cache))
    made.register_for_checkpointing(loader)
    batches = iter(loader)
    for _ in range(steps):
        next(batches)
    made.save_state(tmp_path)
    made = accelerator()
    again = made.prepare(token_loader(cache))
    made.register_for_checkpointing(again)
    made.load_state(tmp_path)
    again.set_epoch(0)
    assert keys_of(again) == epochs[0][steps:]
    assert keys_of(again) == epochs[1]


# --- several ranks ---


def flat(parts):
    return [key for part in parts for key in part]


@pytest.mark.slow
def test_ranks_share_an_epoch_and_any_number_of_them_goes_on(cache, tmp_path):
    (tmp_path / "cache").symlink_to(cache)
    ranks = rank_child.run_ranks(2, rank_child.epochs_of_a_token_loader, tmp_path)
    one, two = (set(flat(rank["first"])) for rank in ranks)
    assert [len(flat(rank["first"])) for rank in ranks] == [7, 8]
    assert one | two == set(VIDEOS)
    assert len(one & two) == ranks[0]["repeated"] == 2  # the tail, so that steps are equal
    assert {len(rank["first"]) for rank in ranks} == {ranks[0]["steps"]} == {4}
    assert ranks[0]["state"] == ranks[1]["state"]
    state, begun = ranks[0]["state"], flat(flat(rank["begun"]) for rank in ranks)
    due = sorted(set(VIDEOS) - set(begun))
    assert len(begun) == len(set(begun)) == 8
    for world_size in (1, 2, 3):
        job = rank_child.rest_of_a_token_loader
        left = rank_child.run_ranks(world_size, job, tmp_path, state=state)
        rest = flat(flat(rank["rest"]) for rank in left)
        repeated = left[0]["repeated"]
        assert repeated == (2 if world_size == 2 else 0)  # 3 batches are left
        assert sorted(rest[: len(rest) - repeated]) == due
        assert {rank["next"] for rank in left} == {2}
        if world_size == 2:
            assert [rank["rest"] for rank in left] == [rank["rest"] for rank in ranks]


@pytest.mark.slow
def test_torch_and_accelerate_deal_to_ranks_as_the_token_loader_does(cache, tmp_path):
    pytest.importorskip("accelerate")
    (tmp_path / "cache").symlink_to(cache)
    by_torch = rank_child.run_ranks(2, rank_child.epochs_of_a_data_loader, tmp_path)
    ranks = rank_child.run_ranks(2, rank_child.epochs_with_accelerate, tmp_path)
    assert [rank["own"] for rank in ranks] == by_torch
    assert [rank["ranks"] for rank in ranks] == [2, 2]
    for mode in ("own", "prepared"):
        one, two = (flat(rank[mode]) for rank in ranks)
        assert set(one) | set(two) == set(VIDEOS)
        assert len(one) + len(two) - len(set(one) | set(two)) <= 3  # no more than fills the tail
        assert not set(flat(ranks[0][mode][:3])) & set(flat(ranks[1][mode][:3]))
    for rank in ranks:
        assert "rank=0" in rank["refused"]
        assert rank["skipped"] == rank["prepared"][2:]


@pytest.mark.slow
@lightning_warns
def test_lightning_on_two_ranks_trains_on_every_video(cache, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    loader = TokenLoader(cache, 2, shuffle=True, seed=7)
    one, two = rank_child.fit_with_lightning(loader, tmp_path, num_ranks=2)
    whole = TokenLoader(cache, 2, shuffle=True, seed=7)
    dealt = [[list(batch.keys) for batch in whole] for _ in range(2)]
    for epoch, batches in enumerate(dealt):
        assert one[epoch] == batches[::2]
        assert two[epoch] == [*batches[1::2], batches[0]]  # 7 batches: the first one once more
