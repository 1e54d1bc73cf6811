"""The stages of a run by name, in their order."""

from zephyr.stages import align, deliver, evaluate, feedback, pretrain, reward, sft, synth
from zephyr.stages.stage import Stage

STAGES: dict[str, Stage] = {
    one.name: one
    for one in (
        synth.STAGE,
        pretrain.STAGE,
        sft.STAGE,
        feedback.STAGE,
        reward.STAGE,
        align.STAGE,
        evaluate.STAGE,
        deliver.STAGE,
    )
}
