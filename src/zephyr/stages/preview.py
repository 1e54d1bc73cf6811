"""State shared by the stages' checks and estimates: the recipe, a folder for samples, and rows to be made."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zephyr.data.read.hub import is_hub_id
from zephyr.data.read.source_files import name_of
from zephyr.data.read.sources import Records, counted
from zephyr.data.read.stage_rows import open_records
from zephyr.data.tokenize.token_store import Example
from zephyr.errors import DataError, ModelError, Problems
from zephyr.estimate.model_shape import ModelShape
from zephyr.estimate.workload import Workload
from zephyr.models.source import Source, resolved_revision
from zephyr.models.tokenizers import Tokenizer
from zephyr.recipe.data_section import DataSource
from zephyr.recipe.model_section import STAGE_REFERENCE
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import LocalSection, TeacherSection, VllmSection
from zephyr.records.rows import Prompt, Record
from zephyr.stages.overlap import TrainedPrompts, eval_lines, feedback_data
from zephyr.teachers.opening import check_teacher

if TYPE_CHECKING:
    from zephyr.estimate.duration import Cluster

R = TypeVar("R", bound=Record)
NOT_READ_OFFLINE = "on the hub, not read offline"


class MadeRows(NamedTuple):
    """A file with a sample of the rows that an earlier stage of the run will make, and how many it will make."""

    file: Path
    num_rows: int

    @property
    def source(self) -> DataSource:
        """The file as a source."""
        return DataSource(path=str(self.file))


class SampledStage(NamedTuple):
    """A training stage to be estimated, some of its examples, and the seconds that tokenising one row took."""

    workload: Workload
    examples: tuple[Example, ...]
    seconds_per_row: float


@dataclass
class Preview:
    """The state of a check or an estimate, passed from stage to stage; `made` holds rows that later stages read.

    ``folder`` is a temporary one. ``made``: rows by the stage that will read them ("sft", "align", "feedback").
    ``tokenizer``: that of the run's model, None where it cannot be had; ``counts_bytes`` where a stand-in for it takes
    bytes for tokens. ``trained``: the prompts that stages train on, where an evaluation task asks for them. For an
    estimate: the model's ``shape``, the ``cluster`` (None: this machine), and the training stages that were
    ``sampled``.
    """

    recipe: Recipe
    folder: Path
    problems: Problems = field(default_factory=Problems)
    made: dict[str, MadeRows] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    counts_bytes: bool = False
    shape: ModelShape | None = None
    cluster: "Cluster | None" = None
    sampled: dict[str, SampledStage] = field(default_factory=dict)
    trained: dict[str, TrainedPrompts] = field(default_factory=dict)

    def open_sources(self, sources: Iterable[DataSource], kind: type[R], parts: list[Records[R]]) -> Iterator[str]:
        """A line for every source; its records are appended to `parts` if it can be read here."""
        for source in sources:
            with self.problems.noted():
                try:
                    records = open_records(self.recipe, source, kind)
                except DataError:
                    if not (self.recipe.offline and is_hub_id(source.path)):
                        raise
                    yield f"{name_of(source)}: {NOT_READ_OFFLINE}"
                    continue
                parts.append(records)
                left_out = f", left out {counted(records.counts)}" if records.counts else ""
                yield f"{name_of(source)}: {len(records):,} rows{left_out}"
                for words, counts in (("columns not used", records.unused), ("noted", records.noted)):
                    if counts:
                        yield f"{name_of(source)}: {words}: {counted(counts)}"

    def check_model(self, key: str, name: str) -> Iterator[str]:
        """A line on a model from outside, named under a key of the recipe; none for `stage:NAME`."""
        if name.startswith(STAGE_REFERENCE):
            return
        source = Source(name, offline=self.recipe.offline)
        with self.problems.noted():
            try:
                resolved_revision(source)
            except ModelError:
                if not (source.offline and is_hub_id(name)):
                    raise
                yield f"{key}: {name}, {NOT_READ_OFFLINE}"
            else:
                yield f"{key}: {name}"

    def check_teachers(self, teachers: Iterable[tuple[str, TeacherSection]]) -> Iterator[str]:
        """Lines on the models of teachers, given with their keys; teachers that cannot be called become problems."""
        for key, section in teachers:
            with self.problems.noted():
                check_teacher(section, where=key, offline=self.recipe.offline)
                if isinstance(section, LocalSection | VllmSection):
                    yield from self.check_model(key, section.model)

    def open_made(self, stage: str, makers: str, kind: type[R], parts: list[Records[R]]) -> Iterator[str]:
        """A line on rows that earlier stages will make for this one; a sample of them, if known, goes to `parts`."""
        made = self.made.get(stage)
        if made is None:
            yield f"rows from {makers}, made in the run"
            return
        yield f"{made.num_rows:,} rows from {makers}, made in the run"
        with self.problems.noted():
            parts.append(open_records(self.recipe, made.source, kind))

    def feedback_overlap(self, sources: Sequence[DataSource], rows: Iterable[Record]) -> Iterator[str]:
        """A line on prompts of feedback that the align stage holds out; the error for them goes to the problems.

        The rows are those of the sources.
        """
        feedback, held = self.recipe.feedback, list[Records[Prompt]]()
        assert feedback is not None
        data = feedback_data(self.recipe, sources, feedback.filters)
        for _ in self.open_sources(data.eval_sources, Prompt, held):
            pass  # the align stage says what there is to say about its sources
        if held and len(held) == len(data.eval_sources):
            with self.problems.noted():
                yield from eval_lines(self.recipe, data, rows, chain.from_iterable(held))
