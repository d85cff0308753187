"""Finding models: folders, .flm files, the Hugging Face cache, and everything that is none of these."""

import json
import os
import random
from pathlib import Path

import pytest

from fastlm.errors import ModelFileError, ModelFormatError, ParameterError, UnsupportedError
from fastlm.weights import container, folder, jsonfile, source
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.locate import locate
from fastlm.weights.packed import PackedFile

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.fixture
def make(tmp_path):
    """Makes a folder of files with the given contents."""

    def call(name: str = "model", **files: str) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (path / file.replace("__", ".")).write_text(content)
        return path

    return call


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_folder(make):
    path = make(config__json='{"a": 1}', model__safetensors="x", chat_template__jinja="{{ x }}")
    for given in (path, str(path), str(path) + "/"):
        found = locate(given)
        assert found.path == path and found.weights == path / "model.safetensors"
        assert isinstance(found, CheckpointFolder)
        assert found.config() == {"a": 1} == found.read_json("config.json")
        assert found.read("chat_template.jinja") == b"{{ x }}"
        assert found.read("tokenizer.json") is None and found.read_json("generation_config.json") is None


def test_shards_are_found_by_their_index(make):
    path = make(config__json="{}", model__safetensors__index__json="{}")
    assert locate(path).weights.name == "model.safetensors.index.json"
    (path / "model.safetensors").touch()
    assert locate(path).weights.name == "model.safetensors"


def test_container(tmp_path):
    path = tmp_path / "m.flm"
    extras = {"config.json": b'{"a": 1}', "generation_config.json": b"[]"}
    container.write(path, spec=b"spec", tensors=[("t", 1, 1, False, "float32", memoryview(b"1234"))], extras=extras)
    found = locate(path)
    assert isinstance(found, PackedFile) and found.path == path
    assert found.config() == {"a": 1} and found.read("tokenizer.json") is None
    with pytest.raises(ModelFormatError, match=r"m\.flm: generation_config\.json: expected a JSON object"):
        found.read_json("generation_config.json")


# ---- the cache of the hub ------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    """A cache as huggingface_hub lays it out, with the model org/name."""

    def call(root: Path, revision: str = "abc123") -> Path:
        model = root / "models--org--name"
        snapshot = model / "snapshots" / "abc123"
        snapshot.mkdir(parents=True)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text(revision)
        (model / "blobs").mkdir()
        for i, (name, content) in enumerate({"config.json": "{}", "model.safetensors": "x"}.items()):
            (model / "blobs" / str(i)).write_text(content)
            (snapshot / name).symlink_to(Path("../../blobs") / str(i))
        return snapshot

    return call


@pytest.mark.parametrize(
    ("variable", "value", "root"),
    [
        ("HF_HUB_CACHE", "a/b", "a/b"),
        ("HUGGINGFACE_HUB_CACHE", "a/b", "a/b"),
        ("HF_HOME", "a", "a/hub"),
        ("XDG_CACHE_HOME", "a", "a/huggingface/hub"),
        ("HF_HOME", "~/x", "home/x/hub"),
        (None, "", "home/.cache/huggingface/hub"),
    ],
)
def test_hub_ids(cache, monkeypatch, tmp_path, variable, value, root):
    if variable:
        monkeypatch.setenv(variable, value if value.startswith("~") else str(tmp_path / value))
    snapshot = cache(tmp_path / root)
    monkeypatch.chdir(tmp_path)
    found = locate("org/name")
    assert found.path == snapshot and found.read("config.json") == b"{}"
    with pytest.raises(ModelFileError, match=r"org/other: no such .* hf download org/other"):
        locate("org/other")


def test_an_existing_folder_comes_before_a_hub_id(cache, monkeypatch, tmp_path, make):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    cache(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    make("org/name", config__json="{}", model__safetensors="x")
    assert locate("org/name").path == Path("org/name")


@pytest.mark.parametrize("revision", ["", "zzz", "..", "../../x", "/etc", "a" * 500, "abc123/../abc123", "\0"])
def test_a_reference_cannot_leave_the_snapshots(cache, monkeypatch, tmp_path, revision):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cache(tmp_path, revision)
    with pytest.raises(ModelFileError, match="names no snapshot"):
        locate("org/name")


def test_unfinished_download(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = cache(tmp_path)
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: points to a file that does not exist"):
        locate("org/name")
    (tmp_path / "models--org--name" / "refs" / "main").unlink()
    with pytest.raises(ModelFileError, match="hf download org/name"):
        locate("org/name")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_small_files_of_an_unfinished_download(cache, monkeypatch, tmp_path, name):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (cache(tmp_path) / name).symlink_to(Path("../../blobs/missing"))
    with pytest.raises(ModelFileError, match=rf"{name}: points to a file that does not exist; download"):
        locate("org/name").read(name)


# ---- what is no model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["nowhere", "no/where/at/all", "../nobody", "a--b/c", "org/..", "-x", "x" * 5000, "org/" + "y" * 300, "~nobody/x"],
)
def test_nothing_there(path):
    with pytest.raises(ModelFileError, match="no such folder or file"):
        locate(path)


@pytest.mark.parametrize("path", ["", None, 7, b"x", "a\0b", ["x"]])
def test_no_path(path):
    with pytest.raises(ParameterError, match="path: expected"):
        locate(path)


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        ({}, ModelFormatError, "lacks config.json and model.safetensors"),
        ({"config__json": "{}"}, ModelFormatError, "lacks model.safetensors"),
        ({"model__safetensors": "x"}, ModelFormatError, "holds model.safetensors but no config.json"),
        ({"config__json": "{}", "pytorch_model__bin": "x"}, UnsupportedError, "save_pretrained("),
        ({"pytorch_model-00001-of-00002__bin": "x"}, UnsupportedError, "a pickle, which can run code"),
        ({"config__json": "{}", "model__Q4_K__gguf": "x"}, UnsupportedError, "model.Q4_K.gguf: GGUF is not read"),
        ({"adapter_model__safetensors": "x"}, ModelFormatError, "holds an adapter"),
        ({"model-00001-of-00002__safetensors": "x"}, ModelFormatError, "neither model.safetensors nor"),
        (
            {"config__json": "{}", "model__safetensors": LFS},
            ModelFormatError,
            "model.safetensors: is a Git LFS pointer",
        ),
        ({"config__json": LFS, "model__safetensors": "x"}, ModelFormatError, "config.json: is a Git LFS pointer"),
    ],
)
def test_folders_that_are_no_model(make, files, error, text):
    path = make(**files)
    with pytest.raises(error) as caught:
        locate(path)
    assert text in str(caught.value) and str(path) in str(caught.value)


def test_files_that_are_no_model(tmp_path):
    for name, error, text in [
        ("x.gguf", UnsupportedError, "GGUF"),
        ("x.safetensors", ParameterError, "give the folder"),
        ("config.json", ParameterError, "give the folder"),
        ("x.flm", ModelFormatError, "not a .flm file"),
        ("x.txt", ModelFormatError, "not a .flm file"),
    ]:
        (tmp_path / name).write_text("something else")
        with pytest.raises(error, match=text):
            locate(tmp_path / name)
    (tmp_path / "x.flm").write_text(LFS)
    with pytest.raises(ModelFormatError, match="git lfs pull"):
        locate(tmp_path / "x.flm")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        locate(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_folder(make):
    path = make(config__json="{}", model__safetensors="x")
    path.chmod(0)
    try:
        with pytest.raises(ModelFileError, match="cannot be read"):
            locate(path)
    finally:
        path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everything")
def test_a_folder_that_may_not_be_entered(make):
    path = make(config__json="{}", model__safetensors="x")
    found = locate(path)
    path.chmod(0o444)
    try:
        with pytest.raises(ModelFileError, match=r"model\.safetensors: cannot be read"):
            locate(path)
        with pytest.raises(ModelFileError, match=r"tokenizer\.json: cannot be read"):
            found.read("tokenizer.json")
    finally:
        path.chmod(0o700)


# ---- JSON files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": \xff}', "not UTF-8"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested too deeply"),
        (b'{"a": ' * 200_000, "nested too deeply"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": ' + b"1" * 65 + b"}", "a number has 65 digits"),
        (LFS.encode(), "git lfs pull"),
    ],
)
def test_bad_json(make, content, text):
    path = make(config__json="{}", model__safetensors="x")
    found = locate(path)
    (path / "config.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"config\.json") as caught:
        found.config()
    assert text in str(caught.value)


def test_the_longest_length_of_transformers(make):
    """It stands in the tokenizer_config.json of most models whose tokenizer sets no limit."""
    config = {"model_max_length": 1000000000000000019884624838656}
    path = make(config__json="{}", model__safetensors="x", tokenizer_config__json=json.dumps(config))
    assert locate(path).read_json("tokenizer_config.json") == config


def test_json_that_is_allowed(make):
    path = make(config__json="{}", model__safetensors="x")
    text = '{"a": 1, "a": 2, "b": Infinity, "c": 1e5, "d": "\\ud83d\\ude00", "e": ' + "[" * 62 + "]" * 62 + "}"
    (path / "config.json").write_text(text)
    config = locate(path).config()
    assert config["a"] == 2 and config["b"] == float("inf") and config["d"] == "\U0001f600"
    assert config == json.loads(text)


def test_size_limits(make, monkeypatch):
    path = make(config__json='{"a": 1}', model__safetensors="x")
    found = locate(path)
    monkeypatch.setattr(source, "MAX_JSON_BYTES", 7)
    with pytest.raises(ModelFormatError, match=r"config\.json: has 8 bytes"):
        found.config()
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", 7)
    with pytest.raises(ModelFormatError, match=r"config\.json: has 8 bytes"):
        found.read("config.json")


def is_typed(data: bytes, *, unique: bool) -> bool:
    try:
        return isinstance(jsonfile.parse_object(data, "x.json", unique=unique), dict)
    except ModelFormatError as error:
        return str(error).startswith("x.json: ")


def test_json_errors_are_typed_for_any_bytes():
    rng = random.Random(4)
    base = b'{"name": [1, 2.5, true, null, "\\u00e9\\n"], "other": {"x": -1e3}}'
    for i in range(10_000):
        data = bytearray(base)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        assert is_typed(bytes(data), unique=bool(i % 2))
