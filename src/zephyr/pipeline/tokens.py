"""The rows of a training stage as tokens on disk, made once, with an account of all that was cut or left out."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

from zephyr.atomic import discard, replace_text
from zephyr.data.encoding import DialogueEncoder, Encoded
from zephyr.data.token_store import DialogueStore, PreferenceStore
from zephyr.data.token_writer import TokenWriter
from zephyr.data.truncation import TruncationReport, Window, fit_dialogue, fit_preference
from zephyr.errors import DataError
from zephyr.pipeline.data_rows import Accounts, Rows
from zephyr.pipeline.ranks import is_leader, wait_until
from zephyr.pipeline.stage_folder import Facts
from zephyr.recipe.data_section import DataSection
from zephyr.records.rows import Chat, Preference, Text
from zephyr.train.examples import Comparison, Dialogue

TOKENS = "tokens"
ACCOUNTS = "accounts.json"
Part = Literal["train", "eval"]
R = TypeVar("R", Chat, Text)


def prepare_once(folder: Path, prepare: Callable[[Path], Facts]) -> Facts:
    """The facts of the preparation, made by rank 0 unless an earlier try has done so, and awaited by the others."""
    tokens = folder / TOKENS
    accounts = tokens / ACCOUNTS
    if not is_leader():
        wait_until(accounts.exists, f"{accounts} from rank 0")
    elif not accounts.exists():
        discard(tokens)
        tokens.mkdir(parents=True)
        facts = prepare(tokens)
        replace_text(accounts, json.dumps(facts, indent=1, ensure_ascii=False))
    found: Facts = json.loads(accounts.read_bytes())
    return found


def write_dialogues(tokens: Path, data: DataSection, rows: Rows[R], encode: Callable[[R], Iterable[Encoded]]) -> Facts:
    """The facts; afterwards the rows stand in the folder as stores of dialogues."""
    window, facts = _window(data), Facts()
    for part in ("train", "eval"):
        report = TruncationReport(window)
        with TokenWriter(tokens / part, "dialogues") as writer:
            for row in rows.train if part == "train" else rows.evaluation:
                for encoded in encode(row):
                    fitted = fit_dialogue(encoded, window)
                    if report.add(row.name, fitted.loss):
                        writer.add_dialogue(row.name, fitted.encoded.ids, fitted.encoded.scored)
        facts |= _close(tokens, data, part, report, rows.accounts)
    return facts


def write_preferences(tokens: Path, data: DataSection, rows: Rows[Preference], encoder: DialogueEncoder) -> Facts:
    """The facts; afterwards the rows stand in the folder as stores of preferences."""
    window, facts = _window(data), Facts()
    for part in ("train", "eval"):
        report = TruncationReport(window)
        with TokenWriter(tokens / part, "preferences") as writer:
            for row in rows.train if part == "train" else rows.evaluation:
                completions = [encoder.completion(text) for text in row.completions]
                fitted = fit_preference(encoder.prompt(row.prompt), completions, window)
                if report.add(row.name, fitted.loss):
                    writer.add_preference(row.name, fitted.prompt, fitted.completions, row.ratings)
        facts |= _close(tokens, data, part, report, rows.accounts)
    return facts


def dialogues(folder: Path, part: Part) -> DialogueStore[Dialogue]:
    """The stored dialogues of a stage, as training takes them."""
    return DialogueStore(folder / TOKENS / part, Dialogue)


def comparisons(folder: Path, part: Part) -> PreferenceStore[Comparison]:
    """The stored preferences of a stage, as training takes them."""
    return PreferenceStore(folder / TOKENS / part, Comparison)


def _close(tokens: Path, data: DataSection, part: str, report: TruncationReport, accounts: Accounts) -> Facts:
    """The facts of one part. A DataError if nothing is left of it to train on, or if more was lost than may be."""
    limits, is_train = data.truncation, part == "train"
    if is_train and not (report.rows["whole"] or report.rows["cut"]):
        counted = "; ".join(accounts.lines()) or report.summary()
        raise DataError("training rows", f"none is left ({counted})", "loosen the filters, or give other data")
    report.check(
        max_rows_share=limits.max_rows_share,
        max_tokens_share=limits.max_tokens_share,
        unfit="drop" if limits.rule == "drop" else "stop",
    )
    replace_text(tokens / f"truncation-{part}.json", json.dumps(report.to_fields(), indent=1))
    if not is_train:
        return {"held_out": report.rows.total()}
    accounts.write(tokens)
    lost = f"{report.rows['cut']:,} cut, {report.rows['dropped'] + report.rows['unfit']:,} left out"
    facts = accounts.facts()
    facts |= {"rows": report.rows.total(), "tokens": report.tokens - report.tokens_lost, "truncation": lost}
    return facts


def _window(data: DataSection) -> Window:
    return Window(data.max_length, data.truncation.rule, data.max_prompt_length)
