"""`zephyr check`: what can be known of a run before it: inputs, tokens, steps, losses, files. Trains nothing."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from zephyr.data.read.hub import is_hub_id
from zephyr.data.read.sources import Records
from zephyr.data.read.stage_rows import filters_of, name_of, open_records
from zephyr.errors import DataError, DeviceError, ModelError, Problems
from zephyr.estimate.disk import room_for
from zephyr.models.loading import Source, Tokenizer, load_tokenizer
from zephyr.models.meta_model import num_parameters
from zephyr.models.weight_hash import resolved_revision
from zephyr.pipeline.forecast import Stage, foretell, foretell_held_out, preference_lines
from zephyr.pipeline.inputs import Trains, refuse_device, row_kind, training_section
from zephyr.pipeline.make_models import learnt_tokenizer
from zephyr.pipeline.ready import STAGE_MODEL, base_source, encoder_for, tokenizer_of
from zephyr.pipeline.stages import taken_stages
from zephyr.pipeline.written import files_of, run_files
from zephyr.recipe.data_section import DataSource, DecontaminationFilter
from zephyr.recipe.model_section import NewModel
from zephyr.recipe.schema import Recipe
from zephyr.recipe.teacher_section import LocalSection
from zephyr.records.rows import Preference, Record
from zephyr.runs.disk import writable_folder
from zephyr.stages import evaluate, feedback, synth
from zephyr.stages.preview import Preview
from zephyr.stages.stage import Work

NOT_LOOKED_AT = "on the hub, not looked at offline"


CHECKS = {stage.name: stage.check for stage in (synth.STAGE, feedback.STAGE, evaluate.STAGE)}


class Check:
    """One look at a recipe; what is wrong is gathered, and the rest is looked at all the same."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.problems = Problems()
        self.tokenizer: Tokenizer | None = None
        self.counts_bytes = False
        # What the run will make by rule, made now: `folder` goes when the check is done.
        self._folder = folder
        self._preview = Preview(recipe, folder, self.problems)
        synth.sample_rows(self._preview)
        self._made = self._preview.made

    def model(self) -> Iterator[str]:
        """The base model and its tokenizer, and the other models that are named."""
        recipe, shape = self.recipe, self.recipe.model
        with self.problems.noted():
            if not isinstance(shape, NewModel):
                self.tokenizer = tokenizer_of(recipe)
                yield f"{shape.name_or_path}, a vocabulary of {len(self.tokenizer):,}"
            elif recipe.pretrain is not None and (recipe.pretrain.data.sources or "pretrain" in self._made):
                made = {"synth": self._folder / "synth"} if self._made else {}
                self.tokenizer = learnt_tokenizer(Work(recipe, "pretrain", Path(), made, Path()), shape)
                yield f"new, with a vocabulary of {len(self.tokenizer):,} learnt from the texts of pretrain"
            else:
                self.tokenizer, self.counts_bytes = tokenizer_of(recipe), True
                yield "new, with a tokenizer of its own; until that is learnt, bytes are counted as tokens"
        for key, name in _named_models(recipe):
            with self.problems.noted():
                yield f"{key}: {name}{self._found(Source(name, offline=recipe.offline))}"

    def _found(self, source: Source) -> str:
        try:
            resolved_revision(source)
        except ModelError:
            if not (source.offline and is_hub_id(source.name)):
                raise
            return f", {NOT_LOOKED_AT}"
        return ""

    def training(self, stage: str, section: Trains) -> Iterator[str]:
        """Rows, tokens, steps and what is cut of a training stage."""
        data, kind = section.data, row_kind(section)
        try:
            refuse_device(section)
        except DeviceError as error:
            yield f"will not run on this machine: {error}"
        yield from self._evaluation_sets(section)
        parts: list[Records[Record]] = []
        held_out: list[Records[Record]] = []
        if data.sources:
            yield from self._opened(data.sources, kind, parts)
        else:
            yield from self._made_in_the_run(stage, kind, parts)
        yield from self._opened(data.eval_sources, kind, held_out)
        with self.problems.noted():
            looked_at = self._stage(stage, section)
            if looked_at is not None and parts and len(parts) >= len(data.sources):
                made = None if data.sources else self._made[stage].num_rows
                yield from foretell(looked_at, parts, num_rows=made)
                yield from foretell_held_out(looked_at, held_out) if held_out else ()
        if kind is Preference and data.sources and parts:
            yield from preference_lines(parts, held_out)

    def _made_in_the_run(self, stage: str, kind: type[Record], parts: list[Records[Record]]) -> Iterator[str]:
        """A line on rows that no file has yet; they go to `parts`, or some like them, where a rule makes them."""
        makers = ", ".join(name for name in taken_stages(self.recipe, stage) if name in ("synth", "feedback"))
        made = self._made.get(stage)
        if made is None:
            yield f"rows from {makers}, made in the run"
            return
        yield f"{made.num_rows:,} rows from {makers}, made in the run"
        with self.problems.noted():
            parts.append(open_records(self.recipe, DataSource(path=str(made.file)), kind))

    def _stage(self, stage: str, section: Trains) -> Stage | None:
        """How the stage makes tokens of its rows; None where its tokenizer cannot be looked at."""
        tokenizer, align = self.tokenizer, self.recipe.align
        if stage == "align" and align is not None and align.start is not None:
            tokenizer = self._own_tokenizer(align.start)
        if tokenizer is None:
            return None
        return Stage(self.recipe, section, encoder_for(tokenizer, self.recipe, stage), self.counts_bytes)

    def _own_tokenizer(self, name: str) -> Tokenizer | None:
        """The tokenizer of a model that is not the run's; None where offline it cannot be looked at."""
        source = Source(name, offline=self.recipe.offline)
        return None if self._found(source) else load_tokenizer(source)

    def _evaluation_sets(self, section: Trains) -> Iterator[str]:
        """The evaluation sets of decontamination, which must be there."""
        for one in section.data.filters:
            if isinstance(one, DecontaminationFilter):
                with self.problems.noted():
                    filters_of(self.recipe, [one])
                    yield f"decontaminated against {', '.join(one.against)}"

    def others(self, stage: str) -> Iterator[str]:
        """The data from outside that a stage without training reads."""
        if stage in CHECKS:
            yield from CHECKS[stage](self._preview)
            return
        taken = taken_stages(self.recipe, stage)
        yield f"reads {', '.join(taken) if taken else 'nothing from outside'}"

    def _opened(self, sources: Iterable[DataSource], kind: type[Record], parts: list[Records[Record]]) -> Iterator[str]:
        """A line for every source; its records go to `parts`, if it can be looked at."""
        for source in sources:
            with self.problems.noted():
                try:
                    records: Records[Record] = open_records(self.recipe, source, kind)
                except DataError:
                    if not (self.recipe.offline and is_hub_id(source.path)):
                        raise
                    yield f"{name_of(source)}: {NOT_LOOKED_AT}"
                    continue
                parts.append(records)
                left_out = ", ".join(f"{count:,} x {reason}" for reason, count in records.counts.items())
                yield f"{name_of(source)}: {len(records):,} rows" + (f", left out {left_out}" if left_out else "")

    def disk(self) -> Iterator[str]:
        """The room on the disk."""
        with self.problems.noted():
            writable_folder(self.recipe.output_dir)
            if not isinstance(self.recipe.model, NewModel) and self.tokenizer is not None:
                yield room_for(self.recipe, num_parameters(base_source(self.recipe))).line()


def check_lines(recipe: Recipe) -> Iterator[str]:
    """What is found, line by line. Raises at the end, and all at once, what would stop the run before it trains."""
    with TemporaryDirectory(prefix="zephyr-check-") as folder:
        check = Check(recipe, Path(folder))
        yield from _titled("recipe", [f"{recipe.name}: {', '.join(recipe.stages)}"])
        yield from _titled("model", check.model())
        for stage in recipe.stages:
            section = training_section(recipe, stage)
            yield from _titled(stage, check.others(stage) if section is None else check.training(stage, section))
        yield from _titled("disk", check.disk())
    run_folder = recipe.output_dir / recipe.name
    written = [f"{run_folder / f'{stage}-*'}: {', '.join(files_of(recipe, stage))}" for stage in recipe.stages]
    yield from _titled("writes", [*written, f"{run_folder}: {', '.join(run_files(recipe))}"])
    check.problems.raise_any()


def _titled(title: str, lines: Iterable[str]) -> Iterator[str]:
    return (f"{title:<10}{line}" for line in lines)


def _named_models(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The models from outside beside the base model, with the key that names them."""
    if recipe.align is not None and recipe.align.start is not None:
        yield "align.start", recipe.align.start
    section = recipe.feedback
    if section is None or section.recorded:
        return
    named = [("feedback.candidates", name) for name in section.candidates.models]
    asked = [("feedback.candidates", one) for one in section.candidates.teachers]
    for key, teacher in [*asked, ("feedback.judge", section.judge)]:
        if isinstance(teacher, LocalSection):
            named.append((key, teacher.model))
    yield from ((key, name) for key, name in named if not name.startswith(STAGE_MODEL))
