"""Teachers as a command line names them: scripted, local:FOLDER, endpoint:MODEL@URL."""

import os
from dataclasses import dataclass
from typing import Literal

from zephyr.errors import TeacherError
from zephyr.teachers.ledger import Ledger
from zephyr.teachers.ledgered import LedgeredTeacher
from zephyr.teachers.protocol import Teacher

FORMS = "scripted, local:FOLDER or endpoint:MODEL@URL"


@dataclass(frozen=True)
class TeacherOptions:
    """What is the same for all teachers of a command."""

    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 64
    offline: bool = False
    seed: int = 0


def open_teacher(
    named: str, part: Literal["writes", "rates"], options: TeacherOptions, ledger: Ledger | None = None
) -> Teacher:
    """The teacher of that name, whose answers are kept in the ledger if there is one. Raises ZephyrError."""
    teacher, identity = open_plain(named, part, options)
    return teacher if ledger is None else LedgeredTeacher(teacher, ledger, identity=identity)


def open_plain(named: str, part: Literal["writes", "rates"], options: TeacherOptions) -> tuple[Teacher, str]:
    """The teacher of that name, and whose answers count as its own in a ledger. Raises ZephyrError."""
    form, _, rest = named.partition(":")
    if form == "scripted" and not rest:
        return _scripted(part, options)
    if form == "local" and rest:
        return _local(rest, options)
    if form == "endpoint" and rest:
        return _endpoint(rest, options)
    raise TeacherError("teacher", f"there is none of that name, got '{named}'", f"name {FORMS}")


def _scripted(part: str, options: TeacherOptions) -> tuple[Teacher, str]:
    from zephyr.teachers.scripted import ScriptedJudge, ScriptedTeacher

    teacher = ScriptedTeacher(seed=options.seed) if part == "writes" else ScriptedJudge(seed=options.seed)
    return teacher, f"{teacher.name} with seed {options.seed}"


def _local(folder: str, options: TeacherOptions) -> tuple[Teacher, str]:
    import torch

    from zephyr.data.encoding import DialogueEncoder
    from zephyr.data.templates import TemplateSettings
    from zephyr.models.identity import weights_hash
    from zephyr.models.loading import Source, load
    from zephyr.teachers.local import LocalTeacher

    device = torch.accelerator.current_accelerator(check_available=True)
    dtype = "float32" if device is None else "bfloat16"
    loaded = load(Source(folder, offline=options.offline), dtype=dtype, device=str(device or "cpu"))
    # The layout that the model was trained with stands in its tokenizer.
    encoder = DialogueEncoder(loaded.tokenizer, TemplateSettings(name="own"))
    teacher = LocalTeacher(loaded.model, encoder, name=folder)
    return teacher, f"{weights_hash(loaded.model)} with {encoder.chat_template}"


def _endpoint(place: str, options: TeacherOptions) -> tuple[Teacher, str]:
    from zephyr.teachers.address import Address
    from zephyr.teachers.calling import CallSettings
    from zephyr.teachers.endpoint import EndpointTeacher

    model, _, url = place.rpartition("@")
    if not model or not url.startswith(("http://", "https://")):
        remedy = "write endpoint:MODEL@URL with the URL's http:// or https:// and its /v1"
        raise TeacherError("teacher", f"names no model at an address, got 'endpoint:{place}'", remedy)
    if options.offline and not _is_loopback(url):
        raise TeacherError("teacher", f"is at another machine, got {url}", "leave --offline out, or name a local one")
    address = Address(url, model, os.environ.get(options.api_key_env, ""))
    return EndpointTeacher(address, CallSettings(concurrency=options.concurrency)), address.identity


def _is_loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
