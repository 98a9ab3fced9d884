"""Questions that share what comes before them are answered as if each had come alone."""

import pytest
import torch
from llm.test_llm_adapter import GREEDY, Case, case, every_family
from llm.tiny_llms import CONFIGS, full_inputs, tiny_llm

from vidcomp.errors import ConfigError
from vidcomp.llm.prefix import Prefix
from vidcomp.llm.prompt import Prompt

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own arguments


def questions(one, *endings):
    """Prompts that differ in what follows the video."""
    made = []
    for ending in endings:
        inputs = full_inputs(one.name, one.adapter, [one.grid])
        for name, value in inputs.items():
            new = {"input_ids": ending, "attention_mask": [1] * len(ending)}
            added = torch.tensor([new.get(name, [0] * len(ending))])
            inputs[name] = torch.cat([value[:, : value.shape[1] - 4], added], dim=1)
        made.append(one.adapter.prompt({**inputs, **one.pixels}, [one.grid]))
    return made


@every_family
def test_answers_are_those_without_a_prefix(name):
    one = case(name)
    prompts = questions(one, [20, 21, 22], [30, 31, 32, 33, 34, 35], [40])
    prefix = Prefix(one.adapter, prompts[1], [one.small])
    for _ in range(2):  # the second time from the same keys and values
        together = prefix.generate(prompts, **GREEDY)
        for prompt, answer in zip(prompts, together, strict=True):
            alone = one.adapter.generate(prompt, [one.small], **GREEDY)[0]
            assert answer.tolist() == alone.tolist()


@every_family
def test_logits_are_those_without_a_prefix(name):
    one = case(name)
    prompts = questions(one, [20, 21, 22], [30, 31, 32, 33, 34, 35], [40])
    prefix = Prefix(one.adapter, prompts[0], [one.small])
    found = prefix.next_logits(prompts)
    for prompt, row in zip(prompts, found, strict=True):
        expected = one.logits(one.adapter.inject(prompt, [one.small]))[0, -1]
        torch.testing.assert_close(row, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "gemma3", "video_llava"])
def test_beams_are_those_without_a_prefix(name):
    one = case(name)
    prompts = questions(one, [20, 21, 22], [40])
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "do_sample": False}
    found = Prefix(one.adapter, prompts[0], [one.small]).generate(prompts, **beams)
    alone = [a for p in prompts for a in one.adapter.generate(p, [one.small], **beams)]
    assert [answer.tolist() for answer in found] == [answer.tolist() for answer in alone]


def test_windows_count_no_padding(monkeypatch):
    """Gemma's layers look some places back, and padding between takes places."""
    narrow = {**CONFIGS["gemma3"]["text_config"], "sliding_window": 8}
    monkeypatch.setitem(CONFIGS, "gemma3", {**CONFIGS["gemma3"], "text_config": narrow})
    monkeypatch.setattr("llm.test_llm_adapter.tiny_llm", tiny_llm.__wrapped__)
    one = Case("gemma3")
    prompts = questions(one, [20, 21, 22], [30, 31, 32, 33, 34, 35], [40])
    found = Prefix(one.adapter, prompts[0], [one.small]).next_logits(prompts)
    for prompt, row in zip(prompts, found, strict=True):
        expected = one.logits(one.adapter.inject(prompt, [one.small]))[0, -1]
        torch.testing.assert_close(row, expected, atol=2e-5, rtol=1e-4)


def test_another_beginning_is_refused():
    one = case("qwen3_vl")
    prefix = Prefix(one.adapter, one.prompt, [one.small])
    assert len(prefix) < len(one.prompt)
    with pytest.raises(ConfigError, match="begins otherwise"):
        prefix.generate([one.short_prompt()], **GREEDY)
    text = Prompt(input_ids=torch.tensor([1, 2]), positions=torch.arange(2), visuals=())
    with pytest.raises(ConfigError, match="video"):
        Prefix(one.adapter, text, [])
