"""The sentence splitter that IFEval counts with: nltk's own data where it is, else a small one of ours.

lm-eval's checkers fetch nltk's `punkt_tab` from the network when they are imported. Without network they would count
no sentence at all; so a Punkt model without training data takes its place then, which knows the abbreviations in
`nltk_data`, and says so beside the score.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from zephyr.errors import DataError

DEVIATION = (
    "sentences are split by a list of abbreviations, as nltk's punkt_tab is not here "
    "(python -m nltk.downloader punkt_tab)"
)
_OWN_DATA = Path(__file__).parent / "nltk_data"


class _NltkData(Protocol):
    path: list[str]

    def find(self, name: str) -> object: ...


class _Nltk(Protocol):
    data: _NltkData

    def download(self, name: str, *, quiet: bool) -> bool: ...


def provide_sentence_splitter(*, offline: bool) -> tuple[str, ...]:
    """What must be said of the sentence counts; afterwards nltk finds data to split English with.

    Unless `offline`, nltk may fetch its own.
    """
    try:
        nltk = cast("_Nltk", importlib.import_module("nltk"))
        importlib.import_module("immutabledict")
        # It guesses languages with dice of its own; with a seed an answer always gets the same verdict.
        importlib.import_module("langdetect").DetectorFactory.seed = 0
    except ImportError as error:
        what = f"its checkers need the package {error.name}"
        raise DataError("ifeval", what, "pip install 'zephyr-align[eval]'") from error
    if not offline and not _is_there(nltk):
        nltk.download("punkt_tab", quiet=True)
    if not _is_there(nltk):
        nltk.data.path.append(str(_OWN_DATA))
    return (DEVIATION,) if str(_OWN_DATA) in nltk.data.path else ()


def _is_there(nltk: _Nltk) -> bool:
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True
