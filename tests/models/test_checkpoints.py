"""A folder is looked over before any library sees it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_websockets.engine.models.checkpoints import check_folder, check_safetensors
from mlx_websockets.errors import ModelBroken

TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write_safetensors(path: Path, header: dict[str, Any] | None = None, data: bytes = bytes(24)) -> Path:
    packed = json.dumps({"a.weight": TENSOR} if header is None else header).encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model in two files."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        write_safetensors(tmp_path / shard)
    index = {"weight_map": {"a.weight": shards[0], "b.weight": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def refusal(folder: Path, *, trust_remote_code: bool = False) -> str:
    with pytest.raises(ModelBroken) as caught:
        check_folder(folder, trust_remote_code=trust_remote_code)
    return caught.value.reason


def test_a_sound_folder_passes_and_its_files_are_known(folder: Path):
    checkpoint = check_folder(folder)

    assert [file.name for file in checkpoint.weight_files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert sum(file.stat().st_size for file in checkpoint.weight_files) == checkpoint.weights_bytes
    assert not checkpoint.has_code


def test_an_empty_folder_is_no_model(tmp_path: Path):
    assert "no config.json" in refusal(tmp_path)


def test_a_folder_that_is_not_there_is_no_model(tmp_path: Path):
    assert "no config.json" in refusal(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_no_model(tmp_path: Path):
    write_safetensors(tmp_path / "model.safetensors")

    assert "no config.json" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "must hold a JSON object, not a list"),
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff\xfe", "is not valid JSON"),
        ("{}", "does not say what kind"),
        ('{"model_type": 5}', "does not say what kind"),
    ],
)
def test_a_config_that_is_no_config_is_refused(folder: Path, text: str, said: str):
    (folder / "config.json").write_bytes(text.encode("latin-1"))

    assert said in refusal(folder)


def test_code_named_in_the_config_is_refused_unless_trusted(folder: Path):
    (folder / "config.json").write_text('{"model_type": "llama", "model_file": "evil.py"}')

    assert "names Python code to run" in refusal(folder)
    assert check_folder(folder, trust_remote_code=True).config["model_file"] == "evil.py"


def test_code_that_is_merely_there_does_not_disqualify_a_model(folder: Path):
    (folder / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModel": "code.Model"}}')
    (folder / "code.py").write_text("")

    assert check_folder(folder).has_code


@pytest.mark.parametrize("tenth", range(10))
def test_a_file_cut_off_anywhere_is_refused_and_named_with_what_is_missing(folder: Path, tenth: int):
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) * tenth // 10])

    reason = refusal(folder)

    assert f"{shard} is cut off" in reason
    assert "bytes are missing" in reason


def test_the_missing_bytes_are_counted(folder: Path):
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])

    assert f"{shard} is cut off: 5 bytes are missing." == refusal(folder)


def test_bytes_after_the_end_are_refused(folder: Path):
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes() + b"more")

    assert "4 bytes too many" in refusal(folder)


def test_no_flipped_byte_of_the_structure_goes_unnoticed(tmp_path: Path):
    path = write_safetensors(tmp_path / "model.safetensors")
    whole = path.read_bytes()
    names = (b"a.weight", b"F32")  # a name can't be told from another; an unknown type is the loader's to refuse
    free = {whole.index(name) + place for name in names for place in range(len(name))}
    free |= {place for place, byte in enumerate(whole) if byte == ord(" ")}

    for place in range(len(whole) - 24):
        if place in free:
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(ModelBroken):
            check_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": TENSOR | {"shape": [2, 4]}},
        {"a": TENSOR | {"data_offsets": [24, 0]}},
        {"a": TENSOR | {"data_offsets": [-24, 0]}},
        {"a": TENSOR | {"data_offsets": [4, 28]}},
        {"a": TENSOR | {"data_offsets": ["0", "24"]}},
        {"a": TENSOR | {"data_offsets": 24}},
        {"a": TENSOR | {"shape": None}},
        {"a": {"dtype": "F32"}},
        {"a": TENSOR, "b": TENSOR},
        {"a": [1]},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: dict[str, Any]):
    path = write_safetensors(tmp_path / "model.safetensors", header)

    with pytest.raises(ModelBroken, match=r"model\.safetensors"):
        check_safetensors(path)


def test_a_header_may_carry_notes_and_types_we_do_not_know(tmp_path: Path):
    header = {"__metadata__": {"format": "mlx"}, "a": TENSOR | {"dtype": "F4", "shape": [48]}}

    assert check_safetensors(write_safetensors(tmp_path / "model.safetensors", header)) > 24


def test_a_missing_shard_is_named(folder: Path):
    (folder / "model-00002-of-00002.safetensors").unlink()

    assert refusal(folder) == "1 of the model's 2 files are missing: model-00002-of-00002.safetensors."


def test_a_missing_shard_is_named_even_without_an_index(folder: Path):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()

    assert "model-00001-of-00002.safetensors" in refusal(folder)


def test_a_link_to_nowhere_is_a_missing_shard(folder: Path):
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(folder / "gone")

    assert shard.name in refusal(folder)


def test_an_index_left_over_from_before_a_conversion_does_no_harm(folder: Path):
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    write_safetensors(folder / "model.safetensors")

    assert [file.name for file in check_folder(folder).weight_files] == ["model.safetensors"]


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_an_index_that_lists_nothing_is_refused(folder: Path, weight_map: Any):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert "does not list the model's files" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../b"])
def test_an_index_can_not_reach_out_of_its_folder(folder: Path, name: str):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": name}}))

    assert "outside of the model's folder" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "weights.npz", "model.pt"])
def test_weights_of_another_format_are_refused_by_name(folder: Path, name: str):
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    (folder / name).write_bytes(b"x")

    assert name in refusal(folder)
    assert "only safetensors" in refusal(folder)


@pytest.mark.parametrize("left_over", ["model.safetensors.incomplete", ".cache/huggingface/download/x.incomplete"])
def test_an_unfinished_download_is_called_so(folder: Path, left_over: str):
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    (folder / left_over).parent.mkdir(parents=True, exist_ok=True)
    (folder / left_over).write_bytes(b"x")

    assert "was not finished" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()

    assert "has no weights" in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path):
    (folder / "tokenizer.json").unlink()

    assert "has no tokenizer" in refusal(folder)


def test_a_sentencepiece_tokenizer_is_one_too(folder: Path):
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")

    assert check_folder(folder)
