"""Sampled answers: kept by step, measured, and written once however often a step comes."""

import json
from pathlib import Path

import numpy as np

from zephyr.models.generation import generate
from zephyr.models.sampling import Stopping
from zephyr.models.tiny import tiny_model, tiny_tokenizer
from zephyr.recipe.teacher_section import SamplingSection
from zephyr.train.checks.health import GENERATED_TOKENS
from zephyr.train.stored_model import TRAIN_SAMPLES, sample_writer


def test_samples_of_every_evaluation_are_kept(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    prompts = [tokenizer.encode("Hello"), tokenizer.encode("What is a mill?")]
    sampling = SamplingSection(max_new_tokens=6)
    sample = sample_writer(model, tokenizer, prompts, sampling=sampling, stop_ids=(2,), folder=tmp_path)
    measured = [sample(step) for step in (10, 20, 30)]
    # The run is killed, resumes from step 10 and comes to step 20 again.
    measured.append(sample(20))
    lines = [json.loads(line) for line in (tmp_path / TRAIN_SAMPLES).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 10, 20, 20]
    expected = generate(model, prompts, sampling, stop=Stopping((2,)))
    assert [line["completion"] for line in lines[:2]] == [
        tokenizer.decode(list(one.ids), skip_special_tokens=True) for one in expected
    ]
    mean = float(np.mean([len(one.ids) for one in expected]))
    assert measured == [{GENERATED_TOKENS: mean}] * 4
    assert lines[1]["prompt"] == tokenizer.decode(prompts[1])
