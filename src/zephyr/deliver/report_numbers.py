"""The numbers of a report that lie in a run's files: answers, scores by task, lengths in tokens, calls and prices."""

from contextlib import closing

from zephyr.data.tokenize.token_store import DialogueStore, PreferenceStore
from zephyr.deliver.run_facts import title_of
from zephyr.runs.reader import RunRecord, at, entries, number, read_json
from zephyr.teachers.ledger.file import open_file
from zephyr.teachers.ledger.report import TeacherSummary, summarize

MOST_PAIRS = 20_000


def answers_of(run: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """The recipe's sample prompts and the first that were measured, each with what all models said."""
    found = []
    for name in ("deliver", "evaluate"):
        for one in run.stages[name].samples() if name in run.stages else []:
            said = [(model, str(text)) for model, text in entries(one, "answers").items()]
            found.append((str(at(one, "prompt") or ""), said))
    return found


def scores_by_task(run: RunRecord) -> tuple[list[str], list[list[str]]]:
    """The models, and for every task of the closed world its name and each model's share of right answers."""
    stage = run.stages.get("evaluate")
    found: dict[str, dict[str, str]] = {}
    models = []
    for name in ("pretrain", "sft", "align") if stage is not None else ():
        assert stage is not None
        for path in stage.measurements("world", name):
            models.append(title_of(run, name))
            for task, share in entries(read_json(path), "by_task").items():
                value = number(share)
                found.setdefault(task, {})[models[-1]] = "" if value is None else f"{value:.0%}"
    return models, [[task, *(by.get(model, "") for model in models)] for task, by in sorted(found.items())]


def preference_lengths(run: RunRecord) -> list[tuple[str, list[int]]]:
    """The lengths in tokens of the best and the other answers that align has trained on; of the first 20,000 rows."""
    folder = run.stages["align"].train_tokens() if "align" in run.stages else None
    if folder is None:
        return []
    store = PreferenceStore(
        folder, lambda _name, _prompt, answers, _ratings: [len(one) for one in answers], verify=False
    )
    rows = [store[index] for index in range(min(len(store), MOST_PAIRS))]
    groups = [("preferred", [row[0] for row in rows]), ("rejected", [each for row in rows for each in row[1:]])]
    return [(name, lengths) for name, lengths in groups if lengths]


def example_lengths(run: RunRecord) -> dict[str, list[int]]:
    """The lengths in tokens of the rows of the stages that read whole texts."""
    found = {}
    for stage in ("pretrain", "sft"):
        folder = run.stages[stage].train_tokens() if stage in run.stages else None
        if folder is not None:
            store = DialogueStore(folder, lambda name, _ids, _mask: name, verify=False)
            found[stage] = [int(length) for length in store.lengths()]
    return {stage: lengths for stage, lengths in found.items() if lengths}


def costs_of(run: RunRecord) -> list[list[str]]:
    """A line for every teacher and judge whose calls are in a ledger: requests, tokens, price, seconds."""
    found: list[TeacherSummary] = []
    for path in run.ledgers():
        with closing(open_file(path, read_only=True)) as ledger:
            found += summarize(ledger)
    return [
        [
            one.teacher,
            f"{one.requests:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            f"{one.price:,.2f}" if one.price else "",
            f"{one.mean_seconds:.3f}",
        ]
        for one in found
    ]


def seconds_in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
