"""A hub that speaks the hub's protocol from this machine, and has its moods."""

import json
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path

COMMIT = "a" * 40


@dataclass
class Hub:
    """A hub with one model, `me/tiny`; `mood` is the status and error code of every answer."""

    folder: Path
    mood: tuple[int, str] = (200, "")
    asked: list[str] = field(default_factory=list)
    url: str = ""
    claimed_bytes: int | None = None
    claimed_weights_bytes: int | None = None

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        status, code = self.mood
        if status != 200:
            return status, {"X-Error-Code": code, "X-Error-Message": "The hub says no."}, b"{}"
        if path.startswith("/api/models/me/tiny/revision/main"):
            return 200, {}, json.dumps({"id": "me/tiny", "sha": COMMIT}).encode()
        if path.startswith(f"/api/models/me/tiny/tree/{COMMIT}"):
            return 200, {}, json.dumps([self._entry(file) for file in self.folder.iterdir()]).encode()
        file = self.folder / path.partition(f"/me/tiny/resolve/{COMMIT}/")[2]
        if file.is_file():
            entry = self._entry(file)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["oid"]}"', "X-Linked-Size": str(entry["size"])}
            return 200, headers, file.read_bytes()
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _entry(self, file: Path) -> dict[str, str | int]:
        content = file.read_bytes()
        size = len(content) if self.claimed_bytes is None else self.claimed_bytes
        if file.suffix == ".safetensors" and self.claimed_weights_bytes is not None:
            size = self.claimed_weights_bytes
        return {"type": "file", "path": file.name, "size": size, "oid": sha1(content).hexdigest()}
