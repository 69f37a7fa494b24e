"""Every setting of the server, said once: its default, its meaning, its bounds.

The command line derives its flags and their help from these fields. Everything is checked
here, before a model is touched.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_websockets.errors import UsageError
from mlx_websockets.sampling import MAX_SEED, MAX_TOKENS, Sampling

DEFAULT_MODEL = "mlx-community/gemma-3-4b-it-4bit"
DEFAULT_PORT = 8765
DEFAULT_TLS_PORT = 8766
MIN_TOKEN_LENGTH = 16
MAX_TOKEN_LENGTH = 256
DEFAULT_TOKEN_LIMIT = 512
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - the seed says so

_TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN_LENGTH},{MAX_TOKEN_LENGTH}}}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_.-]+", re.ASCII | re.IGNORECASE)

MAX_CONNECTIONS = 1000
MAX_CONNECTIONS_PER_ADDRESS = 64
REQUESTS_PER_MINUTE = 6000
"""Room for three cameras of 30 frames a second behind one address."""

IDLE_SECONDS = 3600.0
LOG_FORMATS = ("text", "json")

DRAIN_SECONDS = 2.0
"""From the seed, as each step of a shutdown."""


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    is_secret: bool = False,
    in_folder: bool = True,
) -> Any:
    """A dataclass field that carries what the command line and the docs say about it; both bounds or none.

    What is secret is in no `repr`, and goes to other processes through the environment alone.
    What guards this machine is not `in_folder`: a file in the current folder can't set it.
    """
    metadata = {"help": help, "least": least, "most": most, "is_secret": is_secret, "in_folder": in_folder}
    return dataclasses.field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `mlx serve` was asked to do. See each field's help.

    Raises:
        UsageError: a value is out of its bounds; the sentence names the flag.
    """

    model: tuple[str, ...] = setting(
        (DEFAULT_MODEL,),
        "Hugging Face model id, a local folder, or `demo` (small, needs no hub). "
        "May be repeated: peers choose, and the first is for those that don't.",
    )
    port: int = setting(DEFAULT_PORT, "Port to listen on; 0 lets the system choose one.", least=0, most=65535)
    auto_port: bool = setting(False, "If the port is taken, use the next free one.")
    host: str = setting(EVERY_ADDRESS, "Address to bind to; `localhost` keeps the server to this machine.")
    token: str | None = setting(
        None,
        "Token that other machines need; `-` reads it from standard input. "
        "Not given, it is made at the first start: see `mlx token`.",
        is_secret=True,
        in_folder=False,
    )
    token_file: str | None = setting(
        None,
        "File with that token; made, with a new one, if there is none. It may have more of them, a line each, "
        "with a name, a weight and requests a minute.",
        in_folder=False,
    )
    no_auth: bool = setting(False, "Let everybody on the network in, without a token.", in_folder=False)
    allow_origin: tuple[str, ...] = setting(
        (), "Web pages of this origin may connect, such as `https://example.org`. May be repeated.", in_folder=False
    )
    allowed_host: tuple[str, ...] = setting(
        (), "A name under which the server is reached, such as that of a proxy. May be repeated.", in_folder=False
    )
    tls: str | None = setting(
        None,
        "`auto`: encrypted connections too, with a certificate that the server makes: see `mlx cert`.",
        in_folder=False,
    )
    tls_cert: str | None = setting(
        None, "Encrypted connections too, with this certificate (PEM, the chain included).", in_folder=False
    )
    tls_key: str | None = setting(None, "The key of that certificate (PEM, not encrypted).", in_folder=False)
    tls_port: int = setting(
        DEFAULT_TLS_PORT, "Port for encrypted connections; 0 lets the system choose one.", least=0, most=65535
    )
    memory_budget: float | None = setting(
        None,
        "Gigabytes that all models together may take (four fifths of the device's memory if not given); "
        "one that nobody uses makes room for one that somebody asks for.",
        least=0.001,
        most=100_000,
    )
    allow_model_loading: bool = setting(
        False,
        "Let peers on other machines have models loaded and unloaded, too; only models named by --model.",
        in_folder=False,
    )
    trust_remote_code: bool = setting(
        False, "Let Python code inside the model's folder run. Only for models you trust.", in_folder=False
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
    adapter: str | None = setting(None, "LoRA weights to put on the model: the folder that the training wrote.")
    kv_bits: float | None = setting(
        None,
        "Keep the keys and values of the context with so many bits: longer contexts fit, replies lose a little. "
        "2, 3, 4, 6 or 8; with the scheme `turboquant` also 3.5, say.",
        least=2,
        most=8,
    )
    kv_group_size: int = setting(64, "How many of them share a scale: 32, 64 or 128.", least=32, most=128)
    kv_scheme: str = setting("uniform", "How they are quantised: `uniform` or `turboquant`.")
    draft_model: str | None = setting(
        None,
        "A drafter, a folder or an id: a head trained for this very model that guesses ahead. It makes greedy replies "
        "(temperature 0) faster that begin while nothing else runs.",
    )
    rows: int = setting(16, "How many replies are computed together; more wait.", least=1, most=256)
    max_connections: int = setting(MAX_CONNECTIONS, "Connections open at once.", least=1, most=10_000)
    max_connections_per_address: int = setting(
        MAX_CONNECTIONS_PER_ADDRESS, "Of these, from one other machine.", least=1, most=10_000
    )
    requests_per_minute: int = setting(
        REQUESTS_PER_MINUTE, "Questions and frames a minute from one other machine.", least=1, most=1_000_000
    )
    idle_seconds: float = setting(
        IDLE_SECONDS, "A connection on which nothing has happened for so long is closed.", least=1, most=10_000_000
    )
    drain_seconds: float = setting(
        DRAIN_SECONDS, "When the server stops, replies have so long to finish.", least=0, most=300
    )
    local_weight: int = setting(
        1, "While inputs wait, so many of this machine's start for each one of another.", least=1, most=100
    )
    unchanged_threshold: float = setting(
        0.0,
        "A frame that differs by less from the last one of its source that was described is not described again, "
        "such as 0.03; 0: every frame is. Connections may set their own.",
        least=0,
        most=1,
    )
    debug: bool = setting(False, "Log what happens in detail, and show tracebacks.")
    mdns: bool = setting(False, "Announce the server on the local network, to be found by name: `mlx://NAME`.")
    log_format: str = setting("text", "How the log looks: `text`, or `json` (an object a line, and more of them).")
    show_warnings: bool = setting(False, "Show the libraries' own warnings, also harmless ones.")

    def __post_init__(self) -> None:
        if isinstance(self.model, str):  # one is as good as a list of one
            object.__setattr__(self, "model", (self.model,))
        for each in dataclasses.fields(self):
            _check_bounds(each, getattr(self, each.name))
        if self.tokenizer_config is not None and not Path(self.tokenizer_config).is_file():
            raise UsageError(
                f"--tokenizer-config: there is no file {self.tokenizer_config}.", "Give the path of an existing file."
            )
        if self.log_format not in LOG_FORMATS:
            raise UsageError(f"--log-format is text or json, got {self.log_format!r}.", "Try --log-format json.")
        if not all(model.strip() for model in self.model) or not self.model:
            raise UsageError("--model is empty.", "Try --model demo.")
        if len(set(self.model)) < len(self.model):
            raise UsageError("--model names the same model twice.", "Leave one of them out.")
        if not self.host.strip():
            raise UsageError("--host is empty.", f"Try --host localhost, or --host {EVERY_ADDRESS} for every address.")
        self._check_how_it_computes()
        self._check_who_may_connect()

    def _check_how_it_computes(self) -> None:
        if self.adapter is not None and len(self.model) > 1:
            raise UsageError("--adapter goes with one --model.", "Start a server of its own for the other models.")
        if self.adapter is not None and not Path(self.adapter).expanduser().exists():
            raise UsageError(f"--adapter: there is nothing at {self.adapter}.", "Give the folder of the LoRA weights.")
        if self.kv_scheme not in ("uniform", "turboquant"):
            raise UsageError(f"--kv-scheme can't be {self.kv_scheme!r}.", "Try --kv-scheme uniform.")
        if self.kv_bits is not None and self.kv_scheme == "uniform" and self.kv_bits not in (2, 3, 4, 6, 8):
            raise UsageError(f"--kv-bits can't be {self.kv_bits:g} with --kv-scheme uniform.", "Try --kv-bits 8.")
        if self.kv_group_size not in (32, 64, 128):
            raise UsageError(f"--kv-group-size can't be {self.kv_group_size}.", "Try --kv-group-size 64.")
        if self.draft_model is not None and len(self.model) > 1:
            raise UsageError("--draft-model goes with one --model.", "Start a server of its own for the other models.")
        if self.draft_model is not None and self.kv_bits is not None:
            raise UsageError("--draft-model and --kv-bits don't go together.", "Leave one of them out.")

    @property
    def wants_tls(self) -> bool:
        """Whether encrypted connections are taken, too."""
        return self.tls is not None or self.tls_cert is not None

    def _check_who_may_connect(self) -> None:
        if self.token not in (None, "-"):
            check_token(self.token, "--token")
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"--allow-origin: {origin!r} is no origin.", "Try one like https://example.org: no path, no slash."
                )
        for name in self.allowed_host:
            if not _NAME.fullmatch(name):
                raise UsageError(f"--allowed-host: {name!r} is no name of a host.", "Try one like gpu.example.org.")
        if self.tls not in (None, "auto"):
            raise UsageError(f"--tls can only be auto, got {self.tls!r}.", "For a certificate of yours: --tls-cert.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key go together.", "Give both, or try --tls auto.")
        if self.tls is not None and self.tls_cert is not None:
            raise UsageError("--tls auto makes a certificate, and --tls-cert has one.", "Leave one of them out.")

    @property
    def sampling(self) -> Sampling:
        """What a new connection starts with."""
        limit = self.max_tokens or DEFAULT_TOKEN_LIMIT
        return Sampling(
            max_tokens=min(self.max_tokens or 200, limit),
            max_tokens_image=min(100, limit),
            temperature=float(self.temperature),
            limit=limit,
            unchanged_threshold=float(self.unchanged_threshold),
            rows=self.rows,
        )


def check_token(token: str | None, where: str) -> str:
    """The token, if it is one.

    Raises:
        UsageError: it can't be guarded by, or can't be sent; what it is is not said.
    """
    if token is None or not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{where}: a token has {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} letters, digits or other visible "
            "ASCII characters, and no spaces.",
            "Leave it out: then a good one is made, and `mlx token` shows it.",
        )
    return token


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

MAX_IMAGE_SIDE = 16_384
MAX_JSON_DEPTH = 64
MAX_JSON_ITEMS = 20_000
"""Strings, and brackets of both kinds; counted only in messages that have many brackets."""

MAX_ID_LENGTH = 64
MAX_NAME_LENGTH = 256
"""Of a source, a frame's name and a ping's `t`: they are echoed."""
