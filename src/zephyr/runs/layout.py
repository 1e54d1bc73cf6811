"""The names of a run's files and folders that more than one place writes or reads, each declared once.

    output_dir/NAME/           the run's folder
      run.lock.json            recipe, seed, input hashes, versions: what it takes to repeat the run
      summary.json             scores and seconds
      calls.sqlite             the ledger of paid calls
      STAGE-HASH/              the folder of a finished stage
        stage.json             what it was made from, when, in which time, and its facts
        model/                 of a stage that trains: the model
        adapter/               with lora: the adapters alone
        outcome.json           steps, metrics and health of the training
        tokens/train, /eval    its rows as tokens
        train/train_log.jsonl  a line for every logged step
        samples.json           of evaluate and deliver: prompts and what every model answered
        0-world-sft.json       of evaluate: a measurement, by task number, task and measured stage
        calls.sqlite           the ledger of calls that cost nothing

What a stage alone writes and reads is named in the file of that stage.
"""

# In the run's folder.
LOCK_FILE = "run.lock.json"
SUMMARY = "summary.json"
# In the run's folder or in a stage's.
LEDGER = "calls.sqlite"
# In a stage's folder.
STAGE_FILE = "stage.json"
MODEL = "model"
ADAPTER = "adapter"
OUTCOME = "outcome.json"
TOKENS = "tokens"
PROMPT_KEYS = "prompts.npy"
TRAIN = "train"
TRAIN_LOG = "train_log.jsonl"
SAMPLES_FILE = "samples.json"
REPORT = "report.html"
CARD = "README.md"
KEY_LENGTH = 10


def stage_folder_name(stage: str, digest: str) -> str:
    """The name of a finished stage's folder; `digest`: of all that its result depends on."""
    return f"{stage}-{digest[:KEY_LENGTH]}"


def measurement_file(number: int | str, task: str, stage: str = "") -> str:
    """The name of the file of an evaluation task, the first being number 0, for the model of a stage or for all."""
    return f"{number}-{task}{f'-{stage}' if stage else ''}.json"
