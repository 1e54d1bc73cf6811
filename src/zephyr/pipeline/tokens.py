"""The rows of a training stage as tokens on disk, made once, with an account of all that was cut or left out."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from zephyr.atomic import discard, replace_text
from zephyr.data.read.stage_rows import Accounts, Part, Rows
from zephyr.data.tokenize.encoding import DialogueEncoder, Encoded
from zephyr.data.tokenize.loss_mask_stats import LossMaskStats
from zephyr.data.tokenize.token_store import Comparison, Dialogue, DialogueStore, PreferenceStore, TokenWriter
from zephyr.data.tokenize.truncation import TruncationReport, fit_dialogue, fit_preference
from zephyr.errors import DataError
from zephyr.recipe.data_section import DataSection
from zephyr.recipe.stage_sections import AlignSection
from zephyr.recipe.train_section import LossOn
from zephyr.records.rows import Chat, Preference, Text
from zephyr.runs.layout import TOKENS
from zephyr.runs.ranks import is_leader, wait_until
from zephyr.runs.stage_folder import Facts

ACCOUNTS = "accounts.json"
PARTS: tuple[Part, ...] = ("train", "eval")  # in this order: reading the first fills the second
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


def store_dialogues(
    tokens: Path,
    data: DataSection,
    rows: Rows[R],
    encode: Callable[[R], Iterable[Encoded]],
    *,
    supervision: LossMaskStats | None = None,
    loss_on: LossOn = "everything",
) -> Facts:
    """The facts; afterwards the rows stand in the folder as stores of dialogues.

    `supervision` counts what is learned of them. Raises DataError where that cannot be meant.
    """
    facts = Facts()
    for part in PARTS:
        report = TruncationReport(data)
        with TokenWriter(tokens / part, "dialogues") as writer:
            encoded_rows = ((row.name, encoded) for row in rows.part(part) for encoded in encode(row))
            for name, encoded in encoded_rows:
                fitted = fit_dialogue(encoded, data)
                if not report.add(name, fitted.loss):
                    continue
                writer.add(Dialogue(name, fitted.encoded.ids, fitted.encoded.scored))
                if supervision is not None and part == "train":
                    supervision.add(fitted.encoded)
        facts |= _close(tokens, part, report, rows.accounts)
    if supervision is not None:
        supervision.check(loss_on=loss_on)
        facts["learned"] = {role: round(share.value, 4) for role, share in supervision.shares().items()}
    return facts


def store_preferences(tokens: Path, section: AlignSection, rows: Rows[Preference], encoder: DialogueEncoder) -> Facts:
    """The facts; afterwards the rows stand in the folder as stores of preferences."""
    data, facts = section.data, Facts()
    for part in PARTS:
        report = TruncationReport(data)
        with TokenWriter(tokens / part, "preferences") as writer:
            for row in rows.part(part):
                refuse_completions(section, row)
                completions = [encoder.completion(text) for text in row.completions]
                fitted = fit_preference(encoder.prompt(row.prompt), completions, data)
                if report.add(row.name, fitted.loss):
                    writer.add(Comparison(row.name, fitted.prompt, fitted.completions, row.ratings))
        facts |= _close(tokens, part, report, rows.accounts)
    return facts


def dialogues(folder: Path, part: Part) -> DialogueStore:
    """The stored dialogues of a stage, as training takes them."""
    return DialogueStore(folder / TOKENS / part)


def comparisons(folder: Path, part: Part) -> PreferenceStore:
    """The stored preferences of a stage, as training takes them."""
    return PreferenceStore(folder / TOKENS / part)


def refuse_completions(section: AlignSection, row: Preference) -> None:
    """Nothing. Raises DataError for a row of another number of completions than the objective learns from."""
    what = section.objective.completions_problem(len(row.completions))
    if what is not None:
        raise DataError(row.name, what, "choose the objective that fits this data, or rebuild the data for it")


def _close(tokens: Path, part: str, report: TruncationReport, accounts: Accounts) -> Facts:
    """The facts of one part. A DataError if nothing is left of it to train on, or if more was lost than may be."""
    is_train = part == "train"
    if is_train and not (report.rows["whole"] or report.rows["cut"]):
        raise none_left(accounts, report.summary())
    report.check()
    replace_text(tokens / f"truncation-{part}.json", json.dumps(report.to_fields(), indent=1))
    if not is_train:
        return {"held_out": report.rows.total()}
    accounts.write(tokens)
    lost = f"{report.rows['cut']:,} cut, {report.rows['dropped'] + report.rows['unfit']:,} left out"
    facts = accounts.facts()
    facts |= {"rows": report.rows.total(), "tokens": report.tokens - report.tokens_lost, "truncation": lost}
    return facts


def none_left(accounts: Accounts, otherwise: str = "") -> DataError:
    """The error for a stage without a row to train on, which says what took them; `otherwise` if no filter did."""
    counted = "; ".join(line.strip() for line in accounts.lines()) or otherwise
    return DataError("training rows", f"none is left ({counted})", "loosen the filters, or give other data")
