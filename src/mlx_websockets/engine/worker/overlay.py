"""What libraries get to see of a model's folder.

A folder of links that lasts as long as loading does. It leaves out what must not be
opened (pickles, and Python code unless it is trusted, along with every mention of such
code in the configs), and holds the tokenizer settings and the chat template that the
user wants instead of the model's own. So these are in force for every library that reads
them, whatever it prefers, and no library can run code it has not been shown.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.engine.models.checkpoints import read_json_object
from mlx_websockets.errors import ModelBroken, StartError, UsageError

SHOWN = (".json", ".jsonl", ".safetensors", ".model", ".tiktoken", ".txt", ".jinja", ".spm")
"""Kinds of files that a library may open."""

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
NAMED_TEMPLATES = "additional_chat_templates"

NAMES_CODE = ("auto_map", "model_file", "custom_pipelines")


@contextmanager
def what_libraries_see(folder: Path, spec: ModelSpec) -> Iterator[Path]:
    """A folder that stands for `folder` while the `with` block runs.

    Raises:
        ModelBroken: a config of the model is no JSON object.
        StartError: there is no room for temporary files.
        UsageError: the tokenizer settings or the chat template that was asked for can't be used.
    """
    with ExitStack() as stack:
        try:
            view = Path(stack.enter_context(TemporaryDirectory(prefix="mlx-websockets-")))
            _fill(view, folder, spec)
        except OSError as error:
            raise StartError(
                f"The model can't be prepared: {error.filename}: {error.strerror}.", "Check the disk, or set TMPDIR."
            ) from error
        yield view


def named_templates(folder: Path) -> dict[str, str]:
    """The chat templates of a model by name; the one it uses on its own is `default`."""
    own = _tokenizer_config(folder).get("chat_template")
    templates = {}
    if isinstance(own, str):
        templates["default"] = own
    elif isinstance(own, list):
        templates |= {each["name"]: each["template"] for each in own if {"name", "template"} <= each.keys()}
    if (folder / TEMPLATE_JSON).is_file():
        in_json = read_json_object(folder / TEMPLATE_JSON).get("chat_template")
        templates |= {"default": in_json} if isinstance(in_json, str) else {}
    if (folder / TEMPLATE_FILE).is_file():
        templates["default"] = (folder / TEMPLATE_FILE).read_text("utf-8")
    for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja")):
        templates[path.stem] = path.read_text("utf-8")
    return templates


def _fill(view: Path, folder: Path, spec: ModelSpec) -> None:
    _link_files(folder, view, with_code=spec.trust_remote_code)
    if not spec.trust_remote_code:
        _hide_code(view)
    changes = _read_changes(spec.tokenizer_config)
    template = _chosen_template(view, spec.chat_template, changes)
    if changes:
        _rewrite(view / TOKENIZER_CONFIG, _tokenizer_config(view) | changes)
    if template is not None:
        _put_template(view, template)


def _link_files(folder: Path, view: Path, *, with_code: bool) -> None:
    shown = (*SHOWN, ".py") if with_code else SHOWN
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.suffix in shown and path.is_file() and not any(part.startswith(".") for part in inside.parts):
            link = view / inside
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def _hide_code(view: Path) -> None:
    for path in view.rglob("*config*.json"):
        config = read_json_object(path)
        if any(key in config for key in NAMES_CODE):
            _rewrite(path, {key: value for key, value in config.items() if key not in NAMES_CODE})


def _rewrite(path: Path, value: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)  # the link, not the model's own file
    path.write_text(json.dumps(value), "utf-8")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG
    return read_json_object(path) if path.is_file() else {}


def _read_changes(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        changes = read_json_object(Path(path))
    except (ModelBroken, OSError) as error:
        reason = error.reason if isinstance(error, ModelBroken) else f"{path} can't be read: {error.strerror}."
        raise UsageError(f"--tokenizer-config: {reason}", "Give a JSON file like tokenizer_config.json.") from error
    return {key: value for key, value in changes.items() if key not in NAMES_CODE}


def _chosen_template(view: Path, wanted: str | None, changes: dict[str, Any]) -> str | None:
    """The template to use in place of the model's own, or None."""
    if wanted is None:
        from_changes = changes.get("chat_template")
        return from_changes if isinstance(from_changes, str) else None
    if "{{" in wanted or "{%" in wanted:
        return wanted
    templates = named_templates(view)
    if wanted in templates:
        return templates[wanted]
    if Path(wanted).expanduser().is_file():
        return _read_template(Path(wanted).expanduser())
    raise _no_such_template(wanted, templates)


def _read_template(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template: {path} can't be read as text.", "Give a Jinja template.") from error


def _no_such_template(wanted: str, templates: dict[str, str]) -> StartError:
    names = ", ".join(sorted(templates)) or "none"
    return UsageError(
        f"--chat-template: there is no file {wanted}, and the model has no template of that name (it has: {names}).",
        "Give a file, the template itself, or one of these names.",
    )


def _put_template(view: Path, template: str) -> None:
    """Leave `template` as the only one that any library can find."""
    (view / TEMPLATE_JSON).unlink(missing_ok=True)
    for path in (view / NAMED_TEMPLATES).glob("*.jinja"):
        path.unlink()
    for name in (TOKENIZER_CONFIG, "processor_config.json"):
        if (view / name).is_file():
            config = read_json_object(view / name)
            if "chat_template" in config:
                _rewrite(view / name, {key: value for key, value in config.items() if key != "chat_template"})
    (view / TEMPLATE_FILE).unlink(missing_ok=True)
    (view / TEMPLATE_FILE).write_text(template, "utf-8")
