"""The one way to a teacher: a name on a command line becomes its section, and a section an open teacher.

Whoever opens teachers keeps their answers in a ledger: a command in one file of its own, a stage by `StageLedgers`.
Nothing heavy is imported before a teacher that needs it is opened.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

from zephyr.errors import RecipeError, TeacherError
from zephyr.recipe.feedback_section import REWARD_MODEL, ChecksSection, JudgeSection, RewardModelSection
from zephyr.recipe.model_section import (
    STAGE_REFERENCE,
    ChatTemplateSection,
    FileTemplateSection,
    TemplateSection,
    TemplateText,
)
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, ScriptedSection, TeacherSection, VllmSection
from zephyr.runs.layout import LEDGER, MODEL
from zephyr.teachers.endpoint.address import resolve_address
from zephyr.teachers.ledger.prices import Cap, cap_of, prices_of
from zephyr.teachers.protocol import Teacher

if TYPE_CHECKING:
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.models.model_name import Source
    from zephyr.models.tokenizers import Tokenizer
    from zephyr.recipe.schema import Recipe
    from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
    from zephyr.teachers.ledger.ledger import Ledger

TeacherRole: TypeAlias = Literal["writes", "rates"]

TEACHER_FORMS = "scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL or FILE.yaml with a recipe's teacher section"
TEACHER_FILES = (".yaml", ".yml")
_TEACHER_PREFIXES = ("local:", "vllm:", "endpoint:")
# Prompts that are sent together where batch files go out: a server may take a day for one.
PROMPTS_A_BATCH_FILE = 5_000


@dataclass(frozen=True)
class TeacherContext:
    """What all teachers of a stage or a command have in common.

    `template`: the recipe's chat template, for a stage (`template_text`: its text, of a file); without one (commands) a
    model on this machine answers in the template of its own tokenizer, and the hash of its weights is part of its
    identity, as a command's ledger may outlive the model. `models`: the folders that
    `stage:NAME` stands for, by NAME. `cache_tokens`: tokens of key-value cache while a model on this machine answers,
    None: by the device. `dtype`: of such a model, None: by the device.
    """

    seed: int = 0
    offline: bool = False
    template: TemplateSection | None = None
    template_text: TemplateText | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    cache_tokens: int | None = None
    dtype: str | None = None


def stage_context(recipe: "Recipe", stage: str, inputs: Mapping[str, Path]) -> TeacherContext:
    """What the teachers of a stage have in common; `inputs`: the finished folders of earlier stages, by name.

    Paths are absolute, as the workers of a cluster have working folders of their own.
    """
    models = {name: folder.resolve() / MODEL for name, folder in inputs.items()}
    template, text = recipe.template_of(stage), None
    if isinstance(template, FileTemplateSection):
        from zephyr.models.chat_templates import read_chat_template

        text = read_chat_template(template, data_dir=recipe.data_dir, offline=recipe.offline)
    return TeacherContext(recipe.seed, recipe.offline, template, text, models, dtype=recipe.inference_dtype)


class OpenedTeacher(NamedTuple):
    """An open teacher, the name of its answers in a ledger, and the section it was opened from."""

    teacher: Teacher
    identity: str
    section: TeacherSection

    def end(self) -> None:
        """Give back what the teacher holds of a GPU; it takes it again when it is asked."""
        from zephyr.teachers.vllm_engine import VllmTeacher

        if isinstance(self.teacher, VllmTeacher):
            self.teacher.engine.close()

    def with_ledger(self, ledger: "Ledger") -> "LedgeredTeacher":
        """The teacher with its answers kept in the ledger, and taken from it."""
        from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher

        return LedgeredTeacher(self.teacher, ledger, identity=self.identity, prices=prices_of(self.section))


def names_teacher(text: str) -> bool:
    """Whether a name on a command line is a teacher's, and not a model's folder or hub id."""
    return text == "scripted" or text.startswith(_TEACHER_PREFIXES) or text.endswith(TEACHER_FILES)


def parse_teacher(text: str, *, api_key_env: str = "OPENAI_API_KEY", concurrency: int = 64) -> TeacherSection:
    """The section for a teacher as a command line names it; the options are those of an endpoint.

    Not every server wants a key: an endpoint is called without one if the variable is not set. A file says all itself.
    Raises TeacherError for an unknown form, RecipeError for what is wrong in a file.
    """
    if text.endswith(TEACHER_FILES):
        from zephyr.recipe.loading import read_teacher

        return read_teacher(Path(text))
    form, _, rest = text.partition(":")
    if form == "scripted" and not rest:
        return ScriptedSection()
    if form == "local" and rest:
        return LocalSection(model=rest)
    if form == "vllm" and rest:
        return VllmSection(model=rest)
    if form == "endpoint" and rest:
        model, _, url = rest.rpartition("@")
        if not model or not url.startswith(("http://", "https://")):
            remedy = "write endpoint:MODEL@URL with the URL's http:// or https:// and its /v1"
            raise TeacherError("teacher", f"names no model and URL, got '{text}'", remedy)
        key_env = api_key_env if os.environ.get(api_key_env) else ""
        return EndpointSection(base_url=url, model=model, api_key_env=key_env, concurrency=concurrency)
    raise TeacherError("teacher", f"there is no such teacher, got '{text}'", f"name {TEACHER_FORMS}")


def parse_judge(text: str, *, api_key_env: str = "OPENAI_API_KEY", concurrency: int = 64) -> JudgeSection:
    """The section for a judge of answers as a command line names it.

    `checks`, `reward_model:FOLDER`, or as `parse_teacher`.
    """
    form, _, rest = text.partition(":")
    if form == REWARD_MODEL and rest:
        return RewardModelSection(model=rest)
    if text == ChecksSection().name:
        return ChecksSection()
    if text.endswith(TEACHER_FILES):
        from zephyr.recipe.loading import read_judge

        return read_judge(Path(text))
    return parse_teacher(text, api_key_env=api_key_env, concurrency=concurrency)


def check_teacher(section: TeacherSection, *, where: str, offline: bool) -> None:
    """Check that the teacher can be opened, as far as that shows without loading a model.

    Raises RecipeError, under the key `where`, for a missing key or a server out of reach; TeacherError without vLLM;
    ModelError for a model that is not there.
    """
    if isinstance(section, EndpointSection):
        resolve_address(section, where=where, offline=offline)
    elif isinstance(section, LocalSection):
        if not section.model.startswith(STAGE_REFERENCE):
            from zephyr.models.model_name import Source, check_source

            check_source(Source(section.model, offline=offline))
    elif isinstance(section, VllmSection):
        from zephyr.teachers.vllm_engine import is_installed, not_installed

        if not is_installed():
            raise not_installed()


def open_teacher(
    section: TeacherSection, role: TeacherRole, context: TeacherContext, *, where: str = "teacher"
) -> OpenedTeacher:
    """The teacher of the section, opened; `where` is the section's dotted key, for errors.

    Raises what `check_teacher` does, and ModelError for a model that cannot be loaded.
    """
    check_teacher(section, where=where, offline=context.offline)
    match section:
        case ScriptedSection():
            return _open_scripted(section, role, context.seed)
        case LocalSection():
            return _open_local(section, context, where)
        case VllmSection():
            return _open_engine(section, context, where)
        case EndpointSection():
            return _open_endpoint(section, context, where)


def model_source(name: str, context: TeacherContext, *, where: str) -> "Source":
    """The place of a model: `stage:NAME` is that of an earlier stage, anything else a folder or a hub id.

    Raises RecipeError for a stage whose model is not there.
    """
    from zephyr.models.model_name import Source

    if not name.startswith(STAGE_REFERENCE):
        return Source(name, offline=context.offline)
    stage = name.removeprefix(STAGE_REFERENCE)
    if stage not in context.models:
        raise RecipeError(where, f"stage '{name}' does not run before it", "name an earlier stage, or a folder")
    return Source(str(context.models[stage]), offline=True)


class StageLedgers:
    """The ledgers of a stage, opened where a teacher needs one, and the end of its engines; use it in a `with`.

    A paid answer serves every stage of the run, so endpoints share the run's ledger, and all its calls count for their
    caps. A local model may be another one under the same name tomorrow: its ledger lies in the stage's own folder.
    """

    def __init__(self, folder: Path, run_folder: Path, sections: Iterable[TeacherSection]) -> None:
        self._folder = folder
        self._run_folder = run_folder
        self._cap = cap_of(sections)
        self._open: dict[Path, Ledger] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def keep(self, opened: OpenedTeacher) -> Teacher:
        """The teacher with its answers kept in a ledger; a scripted one as it is."""
        if isinstance(opened.section, ScriptedSection):
            return opened.teacher
        if isinstance(opened.section, VllmSection):
            self._stack.callback(opened.end)
        is_paid = isinstance(opened.section, EndpointSection)
        path = (self._run_folder if is_paid else self._folder) / LEDGER
        if path not in self._open:
            from zephyr.teachers.ledger.ledger import Ledger

            self._open[path] = self._stack.enter_context(Ledger(path, self._cap if is_paid else Cap()))
        return opened.with_ledger(self._open[path])


def prompts_together(default: int, sections: Iterable[TeacherSection]) -> int:
    """The number of prompts that are sent together: more where one of these teachers takes batch files."""
    by_files = any(isinstance(section, EndpointSection) and section.batch for section in sections)
    return PROMPTS_A_BATCH_FILE if by_files else default


def _open_scripted(section: ScriptedSection, role: TeacherRole, seed: int) -> OpenedTeacher:
    from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher

    if role == "rates":
        judge = ScriptedJudge(seed=seed)
        return OpenedTeacher(judge, f"{judge.name} with seed {seed}", section)
    teacher = ScriptedTeacher(section, seed=seed)
    # The default rate is left out, as in ledgers from before there were others.
    rate = "" if section.fault_rate == ScriptedSection().fault_rate else f" and fault rate {section.fault_rate:g}"
    return OpenedTeacher(teacher, f"{teacher.name} with seed {seed}{rate}", section)


def _open_local(section: LocalSection, context: TeacherContext, where: str) -> OpenedTeacher:
    from zephyr.models.loading import load, placement
    from zephyr.models.weight_hash import weights_hash
    from zephyr.teachers.local import LocalTeacher

    source = model_source(section.model, context, where=where)
    device, dtype = placement(context.dtype)
    loaded = load(source, dtype=dtype, device=device)
    encoder = _encoder(loaded.tokenizer, context)
    teacher = LocalTeacher(loaded.model, encoder, name=section.model, max_cache_tokens=context.cache_tokens)
    if context.template is not None:
        return OpenedTeacher(teacher, section.model, section)
    return OpenedTeacher(teacher, f"{weights_hash(loaded.model)} with {encoder.chat_template}", section)


def _open_engine(section: VllmSection, context: TeacherContext, where: str) -> OpenedTeacher:
    from dataclasses import replace

    from zephyr.models.source import resolved_revision
    from zephyr.models.tokenizers import load_tokenizer
    from zephyr.teachers.vllm_engine import open_vllm

    source = model_source(section.model, context, where=where)
    if section.revision is not None:
        source = replace(source, revision=section.revision)
    encoder = _encoder(load_tokenizer(source), context)
    teacher = open_vllm(section, encoder, place=source.name, seed=context.seed)
    if context.template is not None:
        return OpenedTeacher(teacher, section.model, section)
    version = resolved_revision(source) or _files_of(Path(section.model))
    return OpenedTeacher(teacher, f"{section.model} {version} by vLLM with {encoder.chat_template}", section)


def _open_endpoint(section: EndpointSection, context: TeacherContext, where: str) -> OpenedTeacher:
    from zephyr.teachers.endpoint.batch_file import BatchTeacher
    from zephyr.teachers.endpoint.teacher import EndpointTeacher

    address = resolve_address(section, where=where, offline=context.offline)
    teacher = BatchTeacher(address) if section.batch else EndpointTeacher(address)
    return OpenedTeacher(teacher, address.identity, section)


def _encoder(tokenizer: "Tokenizer", context: TeacherContext) -> "DialogueEncoder":
    """The template of the stage; else the one that the model was trained with, which stands in its tokenizer."""
    from zephyr.data.tokenize.encoding import DialogueEncoder

    return DialogueEncoder(tokenizer, context.template or ChatTemplateSection(name="own"), context.template_text)


def _files_of(folder: Path) -> str:
    """What tells a folder of weights from what stood under its name before: sizes and times."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return ", ".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
