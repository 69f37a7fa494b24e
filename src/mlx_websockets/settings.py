"""Every setting of the server, said once: its default, its meaning, its bounds.

The command line derives its flags and their help from these fields. Everything is checked
here, before a model is touched.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_websockets.errors import UsageError
from mlx_websockets.sampling import MAX_SEED, MAX_TOKENS, Sampling

DEFAULT_MODEL = "mlx-community/gemma-3-4b-it-4bit"
DEFAULT_PORT = 8765
DEFAULT_TOKEN_LIMIT = 512
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - the seed says so


def setting(default: Any, help: str, *, least: float | None = None, most: float | None = None) -> Any:
    """A dataclass field that carries what the command line and the docs say about it; both bounds or none."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `mlx serve` was asked to do. See each field's help.

    Raises:
        UsageError: a value is out of its bounds; the sentence names the flag.
    """

    model: str = setting(DEFAULT_MODEL, "Hugging Face model id, a local folder, or `demo` (small, needs no hub).")
    port: int = setting(DEFAULT_PORT, "Port to listen on; 0 lets the system choose one.", least=0, most=65535)
    auto_port: bool = setting(False, "If the port is taken, use the next free one.")
    host: str = setting(EVERY_ADDRESS, "Address to bind to; `localhost` keeps the server to this machine.")
    trust_remote_code: bool = setting(
        False, "Let Python code inside the model's folder run. Only for models you trust."
    )
    tokenizer_config: str | None = setting(None, "A tokenizer_config.json whose fields replace the model's own.")
    chat_template: str | None = setting(
        None, "Chat template: a file, the template itself, or the name of one the model has."
    )
    max_tokens: int | None = setting(
        None,
        "No reply is longer than this (512 if not given); given, it is also the default for text.",
        least=1,
        most=MAX_TOKENS,
    )
    temperature: float = setting(0.7, "Sampling temperature; 0 always takes the likeliest token.", least=0, most=2)
    seed: int | None = setting(
        None,
        "Makes a run repeatable: the same requests in the same order get the same replies.",
        least=0,
        most=MAX_SEED,
    )
    rows: int = setting(16, "How many replies are computed together; more wait.", least=1, most=256)
    debug: bool = setting(False, "Log what happens in detail, and show tracebacks.")
    show_warnings: bool = setting(False, "Show the libraries' own warnings, also harmless ones.")

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check_bounds(each, getattr(self, each.name))
        if self.tokenizer_config is not None and not Path(self.tokenizer_config).is_file():
            raise UsageError(
                f"--tokenizer-config: there is no file {self.tokenizer_config}.", "Give the path of an existing file."
            )
        if not self.model.strip():
            raise UsageError("--model is empty.", "Try --model demo.")
        if not self.host.strip():
            raise UsageError("--host is empty.", f"Try --host localhost, or --host {EVERY_ADDRESS} for every address.")

    @property
    def sampling(self) -> Sampling:
        """What a new connection starts with."""
        limit = self.max_tokens or DEFAULT_TOKEN_LIMIT
        return Sampling(
            max_tokens=min(self.max_tokens or 200, limit),
            max_tokens_image=min(100, limit),
            temperature=float(self.temperature),
            limit=limit,
        )


def _check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    least, most = field.metadata["least"], field.metadata["most"]
    if value is None or least is None or least <= value <= most:
        return
    flag = "--" + field.name.replace("_", "-")
    hint = f"Leave {flag} out." if field.default is None else f"Try {flag} {field.default}."
    raise UsageError(f"{flag} must be between {least} and {most}, got {value}.", hint)


MAX_WAITING = 10
"""Inputs of one connection that may wait; from the seed."""

REPLY_SECONDS = 60.0
"""A reply that takes longer ends with what it has; from the seed."""

WAITING_SECONDS = 300.0
"""An input that the model had no time for within this is told so."""

SEND_SECONDS = 5.0
"""A peer that takes no message for this long is closed; from the seed."""

SHUTDOWN_STEP_SECONDS = 2.0
"""Each step of a shutdown; from the seed."""

MAX_MESSAGE_BYTES = 20 * 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024
MAX_IMAGE_BYTES = 10 * 1024 * 1024
MAX_IMAGE_PIXELS = 16_000_000
MAX_IMAGES = 8
IMAGE_SIDE = 768
"""Pictures are scaled down to this on the longer side; from the seed."""
