"""Teachers as a command line names them: scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL, or a file.

A file holds the section that a recipe has for a teacher: for prices and caps, headers, limits, files of calls. Where a
recipe itself names the teacher, the section stands for its name.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from zephyr.errors import TeacherError
from zephyr.recipe.model_section import ChatTemplateSection
from zephyr.recipe.teacher_section import EndpointSection, LocalSection, ScriptedSection, TeacherSection, VllmSection
from zephyr.teachers.ledger.cached_teacher import LedgeredTeacher
from zephyr.teachers.ledger.ledger import Ledger
from zephyr.teachers.ledger.prices import Cap
from zephyr.teachers.protocol import Teacher

FORMS = "scripted, local:FOLDER, vllm:FOLDER, endpoint:MODEL@URL or FILE.yaml with a recipe's teacher section"
FILES = (".yaml", ".yml")
# Teachers that are loaded to be opened.
_LOADED = ("local:", "vllm:")
Named: TypeAlias = str | TeacherSection


@dataclass(frozen=True)
class TeacherOptions:
    """What is the same for all teachers of a command."""

    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 64
    offline: bool = False
    seed: int = 0


def open_teacher(
    named: Named, part: Literal["writes", "rates"], options: TeacherOptions, ledger: Ledger | None = None
) -> Teacher:
    """The teacher of that name, whose answers are kept in the ledger if there is one. Raises ZephyrError."""
    teacher, identity = open_plain(named, part, options)
    return teacher if ledger is None else LedgeredTeacher(teacher, ledger, identity=identity)


def open_plain(named: Named, part: Literal["writes", "rates"], options: TeacherOptions) -> tuple[Teacher, str]:
    """The teacher of that name, and whose answers count as its own in a ledger. Raises ZephyrError."""
    section = section_of(named)
    match section:
        case ScriptedSection():
            return _scripted(section, part, options)
        case LocalSection():
            return _local(section.model, options)
        case VllmSection():
            return _vllm(section, options)
        case EndpointSection() if isinstance(named, str) and not named.endswith(FILES):
            return _addressed(section, options)
        case EndpointSection():
            return _endpoint(section, named if isinstance(named, str) else named.name, options)


def look_at(named: Named, options: TeacherOptions) -> None:
    """Nothing; a ZephyrError for a teacher that cannot be asked, as far as that shows before a model is loaded."""
    section = read_section(named) if isinstance(named, str) and named.endswith(FILES) else named
    if isinstance(section, LocalSection | VllmSection) or (isinstance(section, str) and section.startswith(_LOADED)):
        return
    open_plain(named, "rates", options)


def section_of(named: Named) -> TeacherSection:
    """The teacher as a recipe would name it. Raises ZephyrError for a form that there is not."""
    if not isinstance(named, str):
        return named
    if named.endswith(FILES):
        return read_section(named)
    form, _, rest = named.partition(":")
    if form == "scripted" and not rest:
        return ScriptedSection()
    if form == "endpoint" and rest:
        return _endpoint_section(rest)
    if form in ("local", "vllm") and rest:
        return LocalSection(model=rest) if form == "local" else VllmSection(model=rest)
    raise TeacherError("teacher", f"there is none of that name, got '{named}'", f"name {FORMS}")


def cap_for(named: Iterable[Named], max_tokens: int | None) -> Cap:
    """The most that a command's calls may cost: what it says itself, and the files that name its teachers."""
    from zephyr.pipeline.endpoints import cap_of

    cap = cap_of(_sections(named))
    limits = [limit for limit in (cap.max_tokens, max_tokens) if limit is not None]
    return Cap(min(limits, default=None), cap.max_price)


def asked_together(default: int, named: Iterable[Named]) -> int:
    """How many prompts are asked about together: more where one of these teachers takes files of calls."""
    from zephyr.pipeline import endpoints

    return endpoints.asked_together(default, _sections(named))


def read_section(file: str) -> TeacherSection:
    """The teacher's section in a file. Raises RecipeError."""
    from zephyr.recipe.loading import read_teacher

    return read_teacher(Path(file))


def _sections(named: Iterable[Named]) -> list[TeacherSection]:
    """Those of the teachers that have a section."""
    return [
        read_section(one) if isinstance(one, str) else one
        for one in named
        if not isinstance(one, str) or one.endswith(FILES)
    ]


def _endpoint_section(place: str) -> EndpointSection:
    """The section for MODEL@URL."""
    model, _, url = place.rpartition("@")
    if not model or not url.startswith(("http://", "https://")):
        remedy = "write endpoint:MODEL@URL with the URL's http:// or https:// and its /v1"
        raise TeacherError("teacher", f"names no model at an address, got 'endpoint:{place}'", remedy)
    return EndpointSection(base_url=url, model=model)


def _scripted(section: ScriptedSection, part: str, options: TeacherOptions) -> tuple[Teacher, str]:
    from zephyr.teachers.scripted import ScriptedJudge
    from zephyr.teachers.scripted import ScriptedTeacher as Scripted

    if part == "rates":
        judge = ScriptedJudge(seed=options.seed)
        return judge, f"{judge.name} with seed {options.seed}"
    teacher = Scripted(section.fault_rate, seed=options.seed)
    # The usual rate is not said, so that older ledgers are still known.
    rate = "" if section.fault_rate == ScriptedSection().fault_rate else f" and fault rate {section.fault_rate:g}"
    return teacher, f"{teacher.name} with seed {options.seed}{rate}"


def _local(folder: str, options: TeacherOptions) -> tuple[Teacher, str]:
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.models.loading import Source, load
    from zephyr.models.placement import placement
    from zephyr.models.weight_hash import weights_hash

    device, dtype = placement()
    loaded = load(Source(folder, offline=options.offline), dtype=dtype, device=device)
    # The layout that the model was trained with stands in its tokenizer.
    encoder = DialogueEncoder(loaded.tokenizer, ChatTemplateSection(name="own"))
    from zephyr.teachers.local import LocalTeacher

    teacher = LocalTeacher(loaded.model, encoder, name=folder)
    return teacher, f"{weights_hash(loaded.model)} with {encoder.chat_template}"


def _vllm(section: VllmSection, options: TeacherOptions) -> tuple[Teacher, str]:
    from zephyr.data.tokenize.encoding import DialogueEncoder
    from zephyr.models.loading import Source, load_tokenizer
    from zephyr.models.weight_hash import resolved_revision
    from zephyr.teachers.vllm_engine import EngineSettings, is_installed, not_installed, open_vllm

    if not is_installed():
        raise not_installed()
    source = Source(section.model, section.revision, offline=options.offline)
    encoder = DialogueEncoder(load_tokenizer(source), ChatTemplateSection(name="own"))
    settings = EngineSettings(
        section.revision, section.num_gpus, section.memory_share, section.max_length, seed=options.seed
    )
    teacher = open_vllm(section.model, encoder, settings, name=section.model)
    version = resolved_revision(source) or _files_of(Path(section.model))
    return teacher, f"{section.model} {version} by vLLM with {encoder.chat_template}"


def _files_of(folder: Path) -> str:
    """What tells a folder of weights from what stood under its name before: sizes and times."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return ", ".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)


def _endpoint(section: EndpointSection, where: str, options: TeacherOptions) -> tuple[Teacher, str]:
    """By a section of a recipe, which says all there is to say."""
    from zephyr.pipeline.endpoints import address_of, endpoint_teacher

    teacher = endpoint_teacher(section, where=where, offline=options.offline)
    return teacher, address_of(section, where=where, offline=options.offline).identity


def _addressed(section: EndpointSection, options: TeacherOptions) -> tuple[Teacher, str]:
    """By an address on a command line, whose options say the rest; not every server wants a key."""
    from zephyr.teachers.endpoint.address import Address, is_loopback
    from zephyr.teachers.endpoint.retrying_call import CallSettings
    from zephyr.teachers.endpoint.teacher import EndpointTeacher as AddressedTeacher

    url = section.base_url
    if options.offline and not is_loopback(urlsplit(url).hostname):
        raise TeacherError("teacher", f"is at another machine, got {url}", "leave --offline out, or name a local one")
    address = Address(url, section.model, os.environ.get(options.api_key_env, ""))
    return AddressedTeacher(address, CallSettings(concurrency=options.concurrency)), address.identity
