"""The plug-in of lmms-eval: found by its entry point, asks like ``VideoLLM`` itself."""

import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

from vidcomp.errors import ConfigError, MissingExtraError
from vidcomp.pipelines.evaluation.harness import Harness, settings_of
from vidcomp.pipelines.evaluation.lmms_eval import manifest

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ["What moves?", "Where does it go to?", "What?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_folder("qwen2_5_vl", tmp_path_factory.mktemp("hub") / "tiny"))


@pytest.fixture(scope="module")
def clip_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [
        str(write_clip(folder / f"{i}.mp4", moving_square(10 + i, 64, 96, seed=i)))
        for i in range(2)
    ]


def turn(path, text, **part):
    content = [{"type": "video", "path": path, **part}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def harness(model):
    return Harness(model, compressor="tome", budget="25%", dtype="float32", num_frames=4)


def alone(harness, path, text, **settings):
    """The same without a session: a dense pass, a compression, one prompt."""
    from vidcomp.llm.model import Clip

    clip = Clip(path=path, sampler=harness.model.sampler)
    video = harness.llm.encode(clip, compressor=harness.arm.stage, budget=harness.arm.budget)
    return harness.llm.ask(text, [video], **settings).text


def test_answers_are_those_of_the_model(harness, clip_paths):
    settings = settings_of({"max_new_tokens": 6}, 9)
    for path in clip_paths:
        for text in QUESTIONS:
            said = harness.answer(turn(path, text), **settings)
            assert said == alone(harness, path, text, **settings)


def test_questions_about_one_video_share_what_was_read(harness, clip_paths, monkeypatch):
    encoded = []
    encode = type(harness.llm).encode
    monkeypatch.setattr(
        type(harness.llm), "encode", lambda *a, **k: encoded.append(a) or encode(*a, **k)
    )
    own = harness.model.sampler
    harness.watch(None)
    for path in clip_paths:
        for text in QUESTIONS:
            harness.answer(turn(path, text), max_new_tokens=1)
    assert len(encoded) == 2
    harness.answer(turn(clip_paths[1], "?", start_s=0.0, end_s=0.5), max_new_tokens=1)
    assert len(encoded) == 3, "a part is another video"
    harness.watch(own)
    harness.answer(turn(clip_paths[1], "?", start_s=0.0, end_s=0.5), max_new_tokens=1)
    assert len(encoded) == 4, "and so are other frames"


def test_conversations_and_two_videos(harness, clip_paths):
    first, second = (turn(path, "?")[0]["content"][0] for path in clip_paths)
    text = {"type": "text", "text": "Which?"}
    for turns in (
        [{"role": "user", "content": [first, second, text]}],
        [{"role": "user", "content": [text, first]}],
        [{"role": "system", "content": [text]}, *turn(clip_paths[0], "?")],
        [{"role": "user", "content": [text]}],
    ):
        assert isinstance(harness.answer(turns, max_new_tokens=2, do_sample=False), str)
    with pytest.raises(ConfigError, match="got 'image'"):
        harness.answer([{"role": "user", "content": [{"type": "image"}, text]}])


def test_a_continuation_is_scored_as_by_the_whole_sequence(harness, clip_paths):
    """The sum over tokens of the log-probabilities that single steps give."""
    import torch

    turns = turn(clip_paths[0], "What moves?")
    ids = harness.llm.text.tokenizer.encode("a cat", add_special_tokens=False)
    found = harness.score(turns, "a cat")
    logps = []
    for k in range(len(ids)):
        said = harness.llm.text.tokenizer.decode(ids[:k])
        if k:
            whole = harness.score(turns, said)
            partial = harness.score(turns, harness.llm.text.tokenizer.decode(ids[: k + 1]))
            logps.append(partial.nll * (k + 1) - whole.nll * k)
        else:
            logps.append(harness.score(turns, harness.llm.text.tokenizer.decode(ids[:1])).nll)
    assert found.nll * len(ids) == pytest.approx(sum(logps), abs=1e-3)
    letters = torch.tensor([harness.score(turns, letter).nll for letter in "ABCD"])
    session = harness.llm.session(harness._tokens(harness._held[0]))
    # The scores of letters count a second spelling where the tokenizer has one; this one has not.
    assert torch.allclose(-letters, session.option_scores("What moves?", "ABCD"), atol=1e-4)
    said = harness.answer(turns, max_new_tokens=1, do_sample=False)
    assert not said or harness.score(turns, said).is_greedy
    with pytest.raises(ConfigError, match="an empty text"):
        harness.score(turns, "")


def test_a_compressor_needs_a_budget(model):
    with pytest.raises(ConfigError, match="go together"):
        Harness(model, compressor="tome")
    with pytest.raises(ConfigError, match="go together"):
        Harness(model, budget=9)
    with pytest.raises(ConfigError, match="by the question"):
        Harness(model, compressor="cdpruner", budget=9)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"max_new_tokens": 7, "do_sample": False}),
        ({"temperature": 0, "top_p": 1.0}, {"max_new_tokens": 7, "do_sample": False}),
        (
            {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 3, "until": ["x"]},
            {"max_new_tokens": 3, "do_sample": True, "temperature": 0.5, "top_p": 0.9},
        ),
        ({"temperature": 1, "do_sample": False}, {"max_new_tokens": 7, "do_sample": False}),
        ({"num_beams": 2}, {"max_new_tokens": 7, "num_beams": 2, "do_sample": False}),
    ],
)
def test_settings_of_benchmarks(given, wanted):
    assert settings_of(given, 7) == wanted


def test_without_lmms_eval_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.models", None)
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    with pytest.raises(MissingExtraError, match="pip install lmms-eval"):
        manifest()


@pytest.fixture
def registry(monkeypatch):
    """lmms-eval's registry, which has read the entry point of pyproject.toml."""
    module = pytest.importorskip("lmms_eval.models.registry_v2")
    pytest.importorskip("lmms_eval.api.model", exc_type=ImportError)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (group,) = settings["project"]["entry-points"]
    points = [
        EntryPoint(name, value, group)
        for name, value in settings["project"]["entry-points"][group].items()
    ]
    made = module.ModelRegistryV2()
    monkeypatch.setattr(made, "_select_entry_points", lambda name: points if name == group else [])
    made.load_entrypoint_manifests()
    return made


def request(*args):
    return SimpleNamespace(args=args)


DOCS = [{"q": q, "v": i % 2} for i, q in enumerate(QUESTIONS * 2)]


def test_lmms_eval_finds_and_asks_it(registry, model, clip_paths, harness):
    assert registry.list_model_names() == ["vidcomp"]
    kind = registry.get_model_class("vidcomp")
    words = f"pretrained={model},compressor=tome,budget=25%,num_frames=4,dtype=float32"
    made = kind.create_from_arg_string(
        words, {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    )
    made.task_dict = {"task": {"test": DOCS}}

    def to_messages(doc):
        video = {"type": "video", "url": clip_paths[doc["v"]]}
        return [{"role": "user", "content": [video, {"type": "text", "text": doc["q"]}]}]

    given = {"max_new_tokens": 5, "temperature": 0, "until": ["\n\n"]}
    requests = [request("", to_messages, given, i, "task", "test") for i in range(len(DOCS))]
    answers = made.generate_until(requests)
    assert answers == [
        harness.answer(turn(clip_paths[doc["v"]], doc["q"]), max_new_tokens=5, do_sample=False)
        for doc in DOCS
    ]
    with pytest.raises(ConfigError, match="several rounds"):
        made.generate_until_multi_round(requests)


def test_the_simple_form(registry, model, clip_paths, harness):
    kind = registry.get_model_class("vidcomp", force_simple=True)
    made = kind(pretrained=model, compressor="tome", budget="25%", num_frames=4, dtype="float32")
    made.task_dict = {"task": {"test": DOCS}}

    def to_visual(doc):
        return [clip_paths[doc["v"]]]

    given = {"max_new_tokens": 5}
    requests = [
        request(doc["q"], given, to_visual, i, "task", "test") for i, doc in enumerate(DOCS)
    ]
    wanted = [
        harness.answer(turn(clip_paths[doc["v"]], doc["q"]), max_new_tokens=5, do_sample=False)
        for doc in DOCS
    ]
    assert made.generate_until(requests) == wanted
    requests = [
        request(doc["q"], target, to_visual, i, "task", "test")
        for i, doc in enumerate(DOCS[:2])
        for target in ("yes", lambda doc: "no")
    ]
    losses = made.loglikelihood(requests)
    assert losses[1] == tuple(harness.score(turn(clip_paths[0], DOCS[0]["q"]), "no"))
    assert all(loss > 0 for loss, _ in losses), "losses, not log-probabilities"
    with pytest.raises(ConfigError, match="videos and texts"):
        made.generate_until([request("?", given, lambda doc: [object()], 0, "task", "test")])


TASK = """\
task: tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
doc_to_visual: !function tiny_utils.visual
doc_to_text: !function tiny_utils.text
doc_to_messages: !function tiny_utils.messages
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 4
process_results: !function tiny_utils.results
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
UTILS = """\
def visual(doc):
    return [doc["path"]]

def text(doc, **kwargs):
    return doc["question"]

def messages(doc, **kwargs):
    parts = [{"type": "video", "url": doc["path"]}, {"type": "text", "text": text(doc)}]
    return [{"role": "user", "content": parts}]

def results(doc, results):
    return {"acc": float(results[0] == doc["answer"])}
"""


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_a_task_is_evaluated_by_lmms_eval_itself(model, clip_paths, harness, tmp_path):
    evaluator = pytest.importorskip("lmms_eval.evaluator", exc_type=ImportError)
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    rows = []
    for doc in DOCS:
        path = clip_paths[doc["v"]]
        right = harness.answer(turn(path, doc["q"]), max_new_tokens=4, do_sample=False)
        rows.append({"path": path, "question": doc["q"], "answer": right})
    rows[0]["answer"] = "something else"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "tiny.yaml").write_text(TASK.format(rows=tmp_path / "rows.json"))
    (tmp_path / "tiny_utils.py").write_text(UTILS)
    found = evaluator.simple_evaluate(
        model="vidcomp",
        model_args=f"pretrained={model},compressor=tome,budget=25%,num_frames=4,dtype=float32",
        tasks=["tiny"],
        task_manager=TaskManager(include_path=str(tmp_path), model_name="vidcomp"),
        batch_size=1,
        device="cpu",
    )
    assert found["results"]["tiny"]["acc,none"] == pytest.approx(5 / 6)


def test_ends_of_answers():
    pytest.importorskip("lmms_eval.api.model", exc_type=ImportError)
    from vidcomp.pipelines.evaluation._lmms_eval_model import _cut

    assert _cut("A.\nB", "\n") == "A."
    assert _cut("A", ["\n", ""]) == "A"
    assert _cut("A", None) == "A"
