"""Many questions about one video: reading it once against reading it for each of them.

    python scripts/bench_qa.py [--rounds N] [--trial] [--device D]

A random model of Qwen3-VL's shape with 8 layers of width 256 reads a video and answers 8 questions
of 20 tokens: the first token of each answer (as for scores of letters), or 16 tokens.  *Each alone*
sends the whole prompt for every question; *one by one* keeps keys and values of the video and asks
one question after another; *together* asks all of them in one batch.  Reading the video the first
time counts in all of them.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from _bench import interleaved, median_ratio, publish_on

from vidcomp.llm.adapter import Adapter
from vidcomp.llm.prefix import Prefix
from vidcomp.llm.prompt import Prompt
from vidcomp.types import Grid, VideoTokens

DIM, QUESTIONS, QUESTION = 256, 8, 20
VOCABULARY, START, END, VIDEO, IMAGE = 512, 508, 509, 510, 511
GRIDS = {256: Grid(4, 8, 8), 1024: Grid(16, 8, 8), 4096: Grid(64, 8, 8)}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "intermediate_size": 3 * DIM,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 32,
    "out_hidden_size": DIM,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 64,
}
BAR = 4.0


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trial", action="store_true", help="Only print.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    adapter = Adapter(model().to(options.device))
    rows, ratios = [], {}
    for num_tokens, grid in GRIDS.items():
        for num_new in (1, 16):
            row = measure(adapter, grid, num_new, options)
            rows.append([num_tokens, num_new, *row])
            ratios[num_tokens, num_new] = row[-2:]
    publish_on(
        options,
        "qa",
        "Eight questions about one video",
        "python scripts/bench_qa.py",
        [
            "video tokens",
            "answer tokens",
            "each alone",
            "one by one",
            "together",
            "times less, one by one",
            "times less, together",
        ],
        rows,
        f"{'CPU s' if options.device == 'cpu' else 'S'}econds for {QUESTIONS} questions of "
        f"{QUESTION} tokens, median of {options.rounds} interleaved rounds, float32, one thread; "
        f"a random model of Qwen3-VL's shape, 8 layers of width {DIM}; ratios: median of the "
        f"rounds' ratios. Reading the video the first time counts in all columns. The bar is "
        f"{BAR:g} times less at 1,024 video tokens and answers of one token: "
        f"{'kept' if min(ratios[1024, 1]) >= BAR else 'MISSED'}.",
    )


def measure(adapter: Adapter, grid: Grid, num_new: int, options: argparse.Namespace) -> list[float]:
    """Medians of the three ways, and how many times less the last two take."""
    video = tokens(grid).to(options.device)
    prompts = [prompt(adapter, grid, number) for number in range(QUESTIONS)]
    settings: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": num_new,
        "min_new_tokens": num_new,
    }

    def alone() -> list[list[int]]:
        said = [adapter.generate(one, [video], **settings) for one in prompts]
        return [ids.tolist() for (ids,) in said]

    def one_by_one() -> list[list[int]]:
        prefix = Prefix(adapter, prompts[0], [video])
        return [prefix.generate([one], **settings)[0].tolist() for one in prompts]

    def together() -> list[list[int]]:
        prefix = Prefix(adapter, prompts[0], [video])
        return [ids.tolist() for ids in prefix.generate(prompts, **settings)]

    if not alone() == one_by_one() == together():
        raise SystemExit("the three ways answer differently: nothing to compare")
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    cases = {"alone": alone, "one": one_by_one, "together": together}
    seconds = interleaved(cases, rounds=options.rounds, clock=clock)
    medians = [statistics.median(seconds[name]) for name in cases]
    less = [median_ratio(seconds["alone"], seconds[name]) for name in ("one", "together")]
    print(f"{grid.num_patches} tokens, answers of {num_new}: {medians}, {less} times less")
    return [*medians, *less]


def model() -> Any:  # a model of transformers
    """Random weights, the same in every run."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config=TEXT,
        vision_config=VISION,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    made = Qwen3VLForConditionalGeneration(config).eval()
    made.generation_config.pad_token_id = 0
    return made


def tokens(grid: Grid) -> VideoTokens:
    """Noise on the grid, with what is added after the first layer."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, grid.num_patches, DIM, generator=generator)
    spans = torch.arange(grid.t).float()[:, None] + torch.tensor([0.0, 1.0])
    return VideoTokens.from_grid(rows[0], grid, spans, extras={"deepstack.0": rows[1]})


def prompt(adapter: Adapter, grid: Grid, number: int) -> Prompt:
    """Every frame behind two tokens for its time, then a question of its own."""
    generator = torch.Generator().manual_seed(number + 2)
    ids = [1, 2, 3, 4]
    for frame in range(grid.t):
        ids += [5, 10 + frame, START, *[VIDEO] * grid.per_frame, END]
    ids += torch.randint(100, 500, (QUESTION,), generator=generator).tolist()
    ids_1L = torch.tensor([ids])
    inputs = {
        "input_ids": ids_1L,
        "attention_mask": torch.ones_like(ids_1L),
        "mm_token_type_ids": 2 * (ids_1L == VIDEO).long(),
        "video_grid_thw": torch.tensor([[grid.t, 2 * grid.h, 2 * grid.w]]),
    }
    return adapter.prompt(inputs, [grid])


if __name__ == "__main__":
    main()
