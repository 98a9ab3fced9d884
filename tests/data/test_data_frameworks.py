"""Data sets, samplers and loaders in the frameworks that people train with, as they write it."""

import io
import logging

import pytest
import rank_child
import torch
from store_builders import content, tiny, write
from torch.utils.data import DataLoader

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, TokenLoader, collate, collate_padded
from vidcomp.data.annotations import QAExample
from vidcomp.data.qa import QADataset
from vidcomp.data.qa_batch import collate_qa
from vidcomp.errors import ConfigError

VIDEOS = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}
STEPS = 5  # batches of 3 an epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frameworks")
    write(folder / "cache", VIDEOS)
    return folder


@pytest.fixture(scope="module")
def epochs(folder):
    """Keys of each batch of the first three epochs."""
    sampler = sampled(folder).batch_sampler
    keys = sorted(VIDEOS)
    return [[tuple(keys[i] for i in batch) for batch in sampler] for _ in range(3)]


def token_loader(folder):
    return TokenLoader(folder / "cache", 3, shuffle=True, seed=1)


def sampled(folder, loader=DataLoader, **options):
    """A loader of torch's kind, with our sampler."""
    dataset = CachedTokenDataset(folder / "cache")
    sampler = TokenBatchSampler(dataset, 3, shuffle=True, seed=1)
    return loader(dataset, batch_sampler=sampler, collate_fn=collate, **options)


def keys_of(batches):
    return [batch.keys for batch in batches]


def saved(state):
    """What ``torch.load`` gives of it, without the leave to run code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_three_epochs_are_three_orders_of_all_videos(epochs):
    for epoch in epochs:
        assert sorted(key for batch in epoch for key in batch) == sorted(VIDEOS)
        assert len(epoch) == STEPS
    assert epochs[0] != epochs[1] != epochs[2]


# --- torch.utils.data.DataLoader ---


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 0},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        pytest.param(
            {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["here", "fork", "persistent", "spawn"],
)
def test_a_data_loader_gives_epoch_after_epoch(folder, epochs, options):
    loader = sampled(folder, **options, pin_memory=False)
    assert len(loader) == STEPS
    for epoch in epochs:
        batches = list(loader)
        assert keys_of(batches) == epoch
        for batch in batches:
            assert [content(video) for video in batch] == [content(VIDEOS[k]) for k in batch.keys]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_pads_and_shuffles_by_itself_too(folder, num_workers):
    dataset = CachedTokenDataset(folder / "cache")
    loader = DataLoader(
        dataset, 4, shuffle=True, collate_fn=collate_padded, num_workers=num_workers
    )
    batches = list(loader)
    assert sorted(key for batch in batches for key in batch.keys) == sorted(VIDEOS)
    assert all(batch.tokens.shape[:2] == batch.mask.shape for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_questions_come_through_workers(folder, num_workers):
    examples = [
        QAExample(key=key, question=f"{n}?", answers=("yes",), id=f"{key}-{n}", extra={"n": n})
        for n in range(2)
        for key in VIDEOS
    ]
    dataset = QADataset(folder / "cache", examples)
    loader = DataLoader(
        dataset,
        batch_sampler=TokenBatchSampler(dataset, tokens_per_batch=20, shuffle=True),
        collate_fn=collate_qa,
        num_workers=num_workers,
    )
    seen = {}
    for batch in loader:
        assert len(batch.tokens.tokens) <= 20
        for example, key, video in zip(batch.examples, batch.keys, batch.tokens, strict=True):
            seen[example.id] = example
            assert key == example.key
            assert content(video) == content(VIDEOS[key])
    assert list(seen.values()) != examples
    assert sorted(seen.values(), key=examples.index) == examples


# --- torchdata's StatefulDataLoader ---

torchdata_warns = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("steps", [0, 1, 3, STEPS])
def test_a_stateful_loader_goes_on_with_what_was_due(folder, epochs, num_workers, steps):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    first = sampled(folder, stateful, num_workers=num_workers)
    batches = iter(first)
    assert [next(batches).keys for _ in range(steps)] == epochs[0][:steps]
    again = sampled(folder, stateful, num_workers=num_workers)
    again.load_state_dict(saved(first.state_dict()))
    assert [keys_of(again), keys_of(again)] == [epochs[0][steps:], epochs[1]]


@torchdata_warns
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_loader_at_the_end_of_an_epoch_begins_the_next(folder, epochs, num_workers):
    """No empty epoch and none that is left out (pytorch/data#1437)."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    first = sampled(folder, stateful, num_workers=num_workers)
    assert keys_of(first) == epochs[0]
    again = sampled(folder, stateful, num_workers=num_workers)
    again.load_state_dict(saved(first.state_dict()))
    assert [keys_of(again), keys_of(again)] == epochs[1:]


@torchdata_warns
def test_a_stateful_loader_shuffles_a_data_set_by_itself(folder):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def loader():
        dataset = CachedTokenDataset(folder / "cache")
        return stateful(dataset, 4, shuffle=True, collate_fn=collate)

    torch.manual_seed(3)
    first = loader()
    batches = iter(first)
    seen = [next(batches).keys, next(batches).keys]
    again = loader()
    again.load_state_dict(first.state_dict())
    rest = keys_of(again)
    assert rest == keys_of(batches)
    assert sorted(key for keys in seen + rest for key in keys) == sorted(VIDEOS)


# --- trainers that count epochs ---


@pytest.mark.parametrize("steps", [2, STEPS, STEPS + 1])
def test_a_trainer_that_counts_epochs_sees_each_once(folder, epochs, steps):
    """``range(epoch, 3)`` with ``set_epoch`` after a state from the middle or the very end."""
    first = token_loader(folder)
    batches = iter(first)
    seen = [next(batches, None) for _ in range(steps)]
    again = token_loader(folder)
    again.load_state_dict(saved(first.state_dict()))
    rest = []
    for epoch in range(3):
        again.set_epoch(epoch)
        rest.append(keys_of(again))
    assert keys_of(filter(None, seen)) + rest[0] == epochs[0]
    assert rest[1:] == epochs[1:]


@pytest.mark.parametrize("steps", [2, STEPS])
def test_a_trainer_that_does_not_count_has_no_empty_epoch(folder, epochs, steps):
    first = token_loader(folder)
    batches = iter(first)
    for _ in range(steps):
        next(batches)
    again = token_loader(folder)
    again.load_state_dict(first.state_dict())
    rest = [epochs[0][steps:], *epochs[1:]]
    assert [keys_of(again), keys_of(again)] == [epoch for epoch in rest if epoch][:2]


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


lightning_warns = pytest.mark.filterwarnings("ignore")  # of all kinds, on its own account


def as_counted(epochs):
    return [(e, i, keys) for e, epoch in enumerate(epochs) for i, keys in enumerate(epoch)]


@lightning_warns
@pytest.mark.parametrize("kind", ["TokenLoader", "StatefulDataLoader"])
@pytest.mark.parametrize("step", [3, STEPS, STEPS + 2])
def test_lightning_goes_on_from_a_checkpoint(folder, epochs, fit, tmp_path, kind, step):
    def loader():
        if kind == "TokenLoader":
            return token_loader(folder)
        module = pytest.importorskip("torchdata.stateful_dataloader")
        return sampled(folder, module.StatefulDataLoader)

    path = tmp_path / "run.ckpt"
    assert fit(loader(), save=(step, path)) == as_counted(epochs)
    assert fit(loader(), resume=path) == as_counted(epochs)[step:]


@lightning_warns
def test_lightning_trains_on_a_data_loader_with_the_sampler(folder, epochs, fit):
    assert fit(sampled(folder)) == as_counted(epochs)


def test_a_sampler_that_lightning_makes_anew_is_refused(folder):
    """It would lose all settings, and with several ranks most of the videos."""
    data = pytest.importorskip("lightning.pytorch.utilities.data")
    loader = sampled(folder)
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
def test_accelerate_prepares_a_data_loader(folder, epochs, accelerator, num_workers):
    loader = accelerator().prepare(sampled(folder, num_workers=num_workers))
    assert len(loader) == STEPS
    assert [keys_of(loader) for _ in range(3)] == epochs


@torchdata_warns
def test_accelerate_skips_batches_of_the_epoch_it_resumes(folder, epochs, accelerator):
    made = accelerator()
    loader = made.prepare(sampled(folder))
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
    folder, epochs, accelerator, tmp_path, num_workers, epoch, steps
):
    """Accelerate counts epochs from 0 in each process, so who resumes says which one it is."""
    pytest.importorskip("torchdata.stateful_dataloader")
    made = accelerator(use_stateful_dataloader=True)
    first = made.prepare(sampled(folder, num_workers=num_workers))
    assert [keys_of(first) for _ in range(epoch)] == epochs[:epoch]
    batches = iter(first)
    for _ in range(steps + (steps == STEPS)):  # to the very end of the loop
        next(batches, None)
    made.save_state(tmp_path)
    made = accelerator(use_stateful_dataloader=True)
    again = made.prepare(sampled(folder, num_workers=num_workers))
    made.load_state(tmp_path)
    rest = []
    for number in range(epoch + (steps == STEPS), 3):
        again.set_epoch(number)
        rest.append(keys_of(again))
    assert rest == [left for left in (epochs[epoch][steps:], *epochs[epoch + 1 :]) if left]


@torchdata_warns
@pytest.mark.parametrize("steps", [2, STEPS])
def test_accelerate_checkpoints_a_token_loader(folder, epochs, accelerator, tmp_path, steps):
    made = accelerator()
    loader = made.prepare(token_loader(folder))
    made.register_for_checkpointing(loader)
    batches = iter(loader)
    for _ in range(steps):
        next(batches)
    made.save_state(tmp_path)
    made = accelerator()
    again = made.prepare(token_loader(folder))
    made.register_for_checkpointing(again)
    made.load_state(tmp_path)
    again.set_epoch(0)
    assert keys_of(again) == epochs[0][steps:]
    assert keys_of(again) == epochs[1]


# --- several ranks ---


def flat(parts):
    return [key for part in parts for key in part]


@pytest.mark.slow
def test_ranks_share_an_epoch_and_any_number_of_them_goes_on(folder, tmp_path):
    (tmp_path / "cache").symlink_to(folder / "cache")
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
def test_torch_and_accelerate_deal_to_ranks_as_the_token_loader_does(folder, tmp_path):
    pytest.importorskip("accelerate")
    (tmp_path / "cache").symlink_to(folder / "cache")
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
def test_lightning_on_two_ranks_trains_on_every_video(folder, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    loader = TokenLoader(folder / "cache", 2, shuffle=True, seed=7)
    one, two = rank_child.fit_with_lightning(loader, tmp_path, num_ranks=2)
    whole = TokenLoader(folder / "cache", 2, shuffle=True, seed=7)
    dealt = [[list(batch.keys) for batch in whole] for _ in range(2)]
    for epoch, batches in enumerate(dealt):
        assert one[epoch] == batches[::2]
        assert two[epoch] == [*batches[1::2], batches[0]]  # 7 batches: the first one once more
