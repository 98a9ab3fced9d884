"""The model for VLMEvalKit, on its own base class where it is installed, else on one like it."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("transformers")

from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

from vidcomp.errors import ConfigError, MissingExtraError
from vidcomp.pipelines.evaluation.harness import Harness
from vidcomp.pipelines.evaluation.vlmevalkit import register

SETTINGS = {"compressor": "uniform", "budget": "50%", "dtype": "float32"}


class LikeBaseModel:
    """What VLMEvalKit documents of ``vlmeval.vlm.base.BaseModel``: ``generate`` takes texts, paths
    and parts, makes parts of them, and hands them to ``generate_inner``."""

    INTERLEAVE = False
    allowed_types = ("text", "image", "video")

    def __init__(self):
        self.dump_image_func = None

    def use_custom_prompt(self, dataset):
        return False

    def generate(self, message, dataset=None):
        if isinstance(message, str):
            message = [{"type": "text", "value": message}]
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)


@pytest.fixture
def supported(monkeypatch):
    """``supported_VLM`` of VLMEvalKit."""
    if importlib.util.find_spec("vlmeval") is not None:
        from vlmeval.config import supported_VLM

        return supported_VLM
    modules = {name: ModuleType(name) for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base")}
    modules["vlmeval.vlm.base"].BaseModel = LikeBaseModel
    modules["vlmeval.config"] = SimpleNamespace(supported_VLM={})
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(
        sys.modules, "vidcomp.pipelines.evaluation._vlmevalkit_model", raising=False
    )
    return modules["vlmeval.config"].supported_VLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_folder("llava_onevision", tmp_path_factory.mktemp("hub") / "tiny"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    return str(write_clip(path, moving_square(20, 64, 96, seed=3)))


@pytest.fixture
def model(supported, folder):
    register("tiny-50%", pretrained=folder, max_new_tokens=5, **SETTINGS)
    return supported["tiny-50%"]()


def message(clip):
    return [
        {"type": "text", "value": "Look."},
        {"type": "video", "value": clip},
        {"type": "text", "value": "Question: what?\nAnswer: "},
    ]


def test_a_registered_model_answers(model, folder, clip):
    turns = [
        {
            "role": "user",
            "content": [
                {"type": "video", "path": clip},
                {"type": "text", "text": "Look.\nQuestion: what?\nAnswer: "},
            ],
        }
    ]
    wanted = Harness(folder, **SETTINGS).answer(turns, max_new_tokens=5, do_sample=False)
    assert model.generate(message(clip), dataset="Video-MME") == wanted
    assert isinstance(model.generate("What?"), str)
    assert model.VIDEO_LLM


def run_of(model, dataset):
    """How VLMEvalKit's runs set frames: the dataset's wins, and one of both is put aside."""
    for name, other in (("nframe", "fps"), ("fps", "nframe")):
        if (getattr(model, name) or 0) > 0:
            if getattr(dataset, name) > 0:
                setattr(model, name, getattr(dataset, name))
            elif getattr(model, other) == 0:
                raise ValueError("not suitable")
            else:
                setattr(model, name, None)


@pytest.mark.parametrize(
    ("nframe", "fps", "frames"), [(6, -1, 6), (0, 2.0, 4), (12, -1, 12), (0, -1, None)]
)
def test_frames_are_those_of_the_dataset(model, clip, nframe, fps, frames):
    run_of(model, SimpleNamespace(nframe=nframe, fps=fps))
    model.generate(message(clip))
    sampler = model.harness.model.sampler
    if frames is None:
        assert sampler is None
        return
    from vidcomp.sample.decode import outline

    assert outline(model.harness.llm.request(_clip(clip, sampler))).num_frames == frames


def _clip(path, sampler):
    from vidcomp.llm.model import Clip

    return Clip(path=path, sampler=sampler)


def test_system_texts_and_pictures(model, clip):
    system = {"type": "text", "value": "Be short.", "role": "system"}
    assert isinstance(model.generate_inner([system, *message(clip)]), str)
    with pytest.raises(ConfigError, match="got 'image'"):
        model.generate_inner([{"type": "image", "value": "a.png"}, *message(clip)])


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "vlmeval", None)
    monkeypatch.setitem(sys.modules, "vlmeval.config", None)
    with pytest.raises(MissingExtraError, match="VLMEvalKit"):
        register(pretrained="x")
