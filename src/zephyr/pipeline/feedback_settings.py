"""What a feedback section says of asking and rating, as plain values."""

from zephyr.feedback.candidates import CandidateSettings
from zephyr.feedback.judge import JudgeSettings
from zephyr.pipeline.endpoints import asked_together
from zephyr.recipe.feedback_section import FeedbackSection
from zephyr.stages.stage import Work


def answering_of(section: FeedbackSection, work: Work) -> CandidateSettings:
    """How many answers a prompt gets, and how they are sampled."""
    candidates, sampling = section.candidates, section.candidates.sampling
    return CandidateSettings(
        num_answers=candidates.num_completions,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_new_tokens,
        seed=work.recipe.seed,
        chunk_prompts=asked_together(CandidateSettings.chunk_prompts, candidates.teachers),
        principles=None if candidates.principles == "none" else candidates.principles,
        principle_shares=dict[str, float](candidates.principle_shares.items()) or None,
    )


def judging_of(section: FeedbackSection, work: Work) -> JudgeSettings:
    """What the judge is asked, and how often."""
    return JudgeSettings(
        aspects=tuple(section.judging.aspects),
        num_tries=section.judging.num_tries,
        max_tokens=section.judging.max_new_tokens,
        seed=work.recipe.seed,
        chunk_rows=asked_together(JudgeSettings.chunk_rows, [section.judge]),
    )
