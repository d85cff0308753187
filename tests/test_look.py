"""Attention as pictures: what is shown of a text, in letters, as a PNG and in a page."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_models import save_bert

import fastlm
from fastlm.cli import main
from fastlm.errors import ParameterError
from fastlm.look.page import LEVELS, page
from fastlm.look.terminal import SHADES, bars, cells
from fastlm.look.view import Token, View, look

ELSEWHERE = sys.prefix  # not the repository, whose package is not built in place
TEXT = "the animal was tired because it was too wide"
HOSTILE = "</script><script>document.title=1</script> & $DATA $TITLE \u2028"
T5 = Path(__file__).with_name("golden") / "t5_gated"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def view(encoder: Path) -> View:
    with fastlm.load(encoder, dtype="float32") as model:
        (found,) = look(model, TEXT)
    return found


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder with a token for each letter."""
    folder = tmp_path_factory.mktemp("translator")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(T5 / name, folder)
    description = {"model": {"type": "BPE", "vocab": {chr(33 + i): i for i in range(90)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **description}))
    return folder


def made(rows: int, columns: int, name: str = "w") -> View:
    """A view of as many tokens, with random shares."""
    rng = np.random.default_rng(3)
    layers = [rng.random((heads, rows, columns), dtype=np.float32) for heads in (2, 3)]
    layers = [layer / layer.sum(axis=-1, keepdims=True) for layer in layers]
    tokens = [[Token(f"{name}{i}", i == 0) for i in range(n)] for n in (rows, columns)]
    return View("a text", "cross", tokens[0], tokens[1], layers)


# ---- views ----------------------------------------------------------------------------------------------------------


def test_an_encoders_view(encoder: Path, view: View) -> None:
    assert [token.text for token in view.queries] == ["[CLS]", *TEXT.split(), "[SEP]"]
    assert [token.special for token in view.queries] == [True, *[False] * 9, True]
    with fastlm.load(encoder, dtype="float32") as model:
        ids = model.tokenizer.encode(TEXT)
        found = model.forward(ids, attentions=True).attentions
    assert all(np.array_equal(a, b) for a, b in zip(view.layers, found, strict=True))


def test_layers_heads_and_their_means() -> None:
    found = made(4, 5)
    assert np.array_equal(found.matrix(1, 2), found.layers[1][2])
    assert np.array_equal(found.matrix(-1, -1), found.layers[1][2])
    assert np.allclose(found.matrix(0), found.layers[0].mean(axis=0))
    assert np.allclose(found.matrix(), np.concatenate(found.layers).mean(axis=0))
    assert np.array_equal(found.matrix(None, 2), found.layers[1][2])
    for layer, head in ((2, 0), (-3, 0), (0, 2), (1, 3), (None, 3)):
        with pytest.raises(ParameterError, match="layer" if layer in (2, -3) else "head"):
            found.matrix(layer, head)


def test_tokens_by_word_and_by_number(view: View) -> None:
    assert view.query("Tired") == view.query("4") == 4 and view.query("-1") == 10
    with pytest.raises(ParameterError, match="'was' is there more than once: give its number: 3, 7"):
        view.query("was")
    with pytest.raises(ParameterError, match=r"none of this text's tokens, which are 0:\[CLS\] 1:the 2:animal"):
        view.query("zebra")
    with pytest.raises(ParameterError, match="token must be from -11 to 10"):
        view.query("11")


def test_a_decoders_view(stories: Path) -> None:
    with fastlm.load(stories) as model:
        (found,) = look(model, "Once upon a time")
        ids = model.engine.prompts.ids("Once upon a time")
        with pytest.raises(ParameterError, match="only an encoder-decoder reads one"):
            look(model, "Once", "upon")
    assert len(found.keys) == len(ids) and found.queries is found.keys
    assert "".join(token.text for token in found.keys if not token.special).strip() == "Once upon a time"
    assert not np.triu(found.matrix(), 1).any()


def test_views_of_an_encoder_decoder(translator: Path) -> None:
    with fastlm.load(translator, dtype="float32") as model:
        cross, source, target = look(model, "abc", "xy")
        written = model.generate("abc", max_tokens=64).token_ids
        unasked = look(model, "abc")[0]
    assert [v.part for v in (cross, source, target)] == ["cross", "encoder", "decoder"]
    assert "".join(token.text for token in cross.keys) == "abc" and [t.text for t in target.keys][1:] == ["x", "y"]
    assert [v.matrix().shape for v in (cross, source, target)] == [(3, 3), (3, 3), (3, 3)]
    assert len(unasked.queries) == 1 + len(written) > 3


def test_a_text_whose_attention_does_not_fit(encoder: Path, translator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before it is computed."""
    monkeypatch.setattr("fastlm.look.view.MOST_BYTES", 3000)
    for folder in (encoder, translator):
        with fastlm.load(folder) as model:
            monkeypatch.setattr(model, "forward", None)
            with pytest.raises(fastlm.ModelMemoryError, match="take a shorter one"):
                look(model, TEXT.replace(" ", ""))


# ---- letters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("width", [12, 30, 80, 200])
def test_what_a_terminal_shows_fits_it(width: int, plain: bool) -> None:
    """As far as there is room for names; every share is there."""
    for found in (made(3, 7), made(30, 70), made(2, 130, "caf\u00e9\x1b\n\u3042")):
        shown = cells(found, found.matrix(), width, plain)
        assert shown.isascii() or not plain
        assert "\x1b" not in shown
        rows = [line for line in shown.splitlines()[1:] if re.match(r" {2,4}\d+  \S", line)]
        assert len(rows) % len(found.queries) == 0
        if width >= 30:
            assert max(len(line) + line.count("\u3042") for line in rows) <= width
        of_one = bars(found, found.matrix(), 1, width, plain)
        assert of_one.count("%") == min(40, len(found.keys)) + (len(found.keys) > 40)
        if width >= 40:
            assert all(len(line) + line.count("\u3042") <= width for line in of_one.splitlines())


def test_shades_are_shares(view: View) -> None:
    """Dark where much is looked at, and at its place."""
    matrix = np.zeros((11, 11), np.float32)
    matrix[2, 3], matrix[4, 1], matrix[5, 0] = 0.8, 0.4, 0.9
    rows = [line[len("    0  because") :].ljust(24) for line in cells(view, matrix, 80, False).splitlines()[-11:]]
    dark = SHADES[-1]
    assert rows[2].index(dark) - rows[5].index(dark) == 2 * 3  # columns 3 and 0, which is special: off the scale
    assert rows[4].index(SHADES[2]) - rows[5].index(dark) == 2 and rows[2].count(dark) == rows[5].count(dark) == 2
    assert "".join(rows[i] for i in (0, 1, 3, 6, 7, 8, 9, 10)).strip() == ""
    line = bars(view, matrix, 2, 80, True).splitlines()
    assert line[0] == "animal (2) looks at" and "80.0 %  ####" in line[4] and "#" not in line[3]


def test_a_terminal_of_plain_letters(encoder: Path, stories: Path) -> None:
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "60"}
    for args in (["--model", str(encoder)], ["--model", str(encoder), "--token", "tired"], ["--model", str(stories)]):
        line = [sys.executable, "-m", "fastlm", "attention", TEXT + " caf\u00e9", *args]
        done = subprocess.run(line, capture_output=True, timeout=60, cwd=ELSEWHERE, env=env, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stderr) == (0, b"") and done.stdout.isascii()
        assert max(map(len, done.stdout.splitlines())) <= 60


WRONG = [
    ([TEXT, "--layer", "2"], 2, "layer must be from -2 to 1, not 2"),
    ([TEXT, "--head", "9"], 2, "head must be from -4 to 3, not 9"),
    ([TEXT, "--token", "zebra"], 2, "token: 'zebra' is none of this text's tokens"),
    ([TEXT, "--part", "cross"], 2, "--part: only an encoder-decoder has parts"),
    ([TEXT, "--target", "x"], 2, "target: only an encoder-decoder reads one"),
    ([TEXT, "--out", "x.pdf"], 2, "--out: the name of the file must end in .html or .png, not x.pdf"),
    ([TEXT, "--out", "/nowhere/x.html"], 1, "/nowhere/x.html: cannot be written"),
    (["a " * 99], 1, "argument 1: 101 tokens are more than the context of 64"),
    (["a"] * 17, 2, "from 1 to 16 texts can be looked at, not 17"),
]


@pytest.mark.parametrize(("args", "status", "words"), WRONG, ids=[words[:30] for *_, words in WRONG])
def test_what_is_wrong_is_said(
    encoder: Path, args: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attention", "--model", str(encoder), *args]) == status
    told = capsys.readouterr()
    assert words in told.err and told.out == ""


def test_parts_in_a_terminal(translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for part in ([], ["--part", "cross"], ["--part", "encoder"], ["--part", "decoder"]):
        assert main(["attention", "abc", "--target", "xyz!", "--model", str(translator), *part]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and len(set(shown)) == 3
    assert [len(text.splitlines()) for text in shown] == [7, 7, 5, 7]


# ---- PNG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--token", "it", "--layer", "1", "--head", "-1"]])
def test_a_picture(encoder: Path, tmp_path: Path, options: list[str]) -> None:
    """What is drawn is there, and another text is another picture."""
    pytest.importorskip("matplotlib")
    found = []
    for texts in ([TEXT], [TEXT, TEXT.replace("tired", "$france$")]):
        out = tmp_path / "x.png"
        assert main(["attention", *texts, "--model", str(encoder), *options, "--out", str(out)]) == 0
        found.append(out.read_bytes())
        assert found[-1].startswith(b"\x89PNG\r\n") and len(found[-1]) > 10_000
    assert found[0] != found[1]


def test_a_picture_of_more_than_it_has_room_for() -> None:
    pytest.importorskip("matplotlib")
    from fastlm.look.picture import picture

    long = made(2, 121)
    with pytest.raises(fastlm.UnsupportedError, match="room for 120 tokens, not 121: write a page"):
        picture([long], [long.matrix()], None, "")
    cross = made(2, 5)
    assert picture([cross], [cross.matrix()], [1], "").startswith(b"\x89PNG")


def test_a_picture_without_matplotlib(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["attention", TEXT, "--model", str(encoder), "--out", str(tmp_path / "x.png")]) == 1
    assert "a picture needs matplotlib: pip install matplotlib" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---- a page ---------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.scripts += [""] * (tag == "script")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def test_a_page_holds_the_shares(view: View) -> None:
    text = page([[view]], "M", {"part": "self", "layer": 1, "head": None, "token": 3}).decode()
    data = json.loads(Elements(text).scripts[0])
    assert data["chosen"] == {"part": "self", "layer": 1, "head": None, "token": 3}
    ((only,),) = [other["views"] for other in data["texts"]]
    assert [token["text"] for token in only["keys"]] == [token.text for token in view.keys]
    for heads, encoded, layer in zip(only["heads"], only["data"], view.layers, strict=True):
        levels = np.frombuffer(base64.b64decode(encoded), "<u2").reshape(heads, 11, 11)
        assert np.abs(levels / LEVELS - layer).max() < 1 / LEVELS


def test_a_page_is_of_itself_and_takes_any_text(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    folder = tmp_path / "<b>$DATA&amp;"
    folder.symlink_to(encoder)
    assert main(["attention", HOSTILE, TEXT, "--model", str(folder), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    elements = Elements(text)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not [tag for tag, _ in elements.found if tag in ("img", "link", "iframe", "b", "base")]
    assert not [attributes for _, attributes in elements.found if {"src", "href", "onerror"} & set(attributes)]
    assert not re.search(r"https?:|url\(|@import|fetch\(|innerHTML|document\.write", text)
    assert [item["text"] for item in json.loads(elements.scripts[0])["texts"]] == [HOSTILE, TEXT]


def test_a_page_that_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlm.look.page.MOST_SHARES", 99)
    with pytest.raises(ParameterError, match="a page of 0 million shares would be"):
        page([[made(4, 5)]], "", {})


# ---- in a browser ---------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
const seen = {};
const note = (name) => { seen[name] = [at("heading").textContent, ...[...document.querySelectorAll("#best tr")].map(
  (row) => [...row.querySelectorAll("th, td.number")].map((cell) => cell.textContent))]; };
const pick = (id, value) => { at(id).value = String(value); at(id).dispatchEvent(new Event("change")); };
const box = (i, side = "keys") => at(side).querySelectorAll(".tokens > *")[i];
const steps = { STEPS };
for (const [name, step] of Object.entries(steps)) { step(); note(name); }
document.body.replaceChildren(made("pre", JSON.stringify(seen), { id: "seen" }), made("pre", document.title));
</script>"""


def browsed(file: Path, steps: str) -> dict[str, Any]:
    """What a browser shows after each of some steps: the heading, and the tokens that are looked at most."""
    assert BROWSER is not None
    copy = file.with_name("probed.html")
    copy.write_text(file.read_text(encoding="utf-8").replace("</body>", PROBE.replace("STEPS", steps) + "</body>"))
    line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    done = subprocess.run([*line, "--dump-dom", copy.as_uri()], capture_output=True, timeout=120, check=True)
    shown = done.stdout.decode()
    assert re.findall(r"<title>(.*?)</title>", shown, re.DOTALL)[0].startswith("Attention: ")
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL)
    assert found is not None, shown[-2000:]
    seen: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return seen


def shows(seen: list[Any], view: View, row: np.ndarray, heading: str) -> bool:
    """Whether the heading begins so, and the ten tokens with the largest shares follow, as far as they are written."""
    largest = np.sort(row)[::-1][:10]
    shares = {
        token.text: [float(x) for t, x in zip(view.keys, row, strict=True) if t.text == token.text]
        for token in view.keys
    }
    for (name, text), value in zip(seen[1:], largest, strict=True):
        share, close = float(text.removesuffix(" %")) / 100, 0.0006 if "." in text else 0.0055
        if abs(share - value) > close or min(abs(share - x) for x in shares[name]) > close:
            return False
    return bool(seen[0].startswith(heading))


@pytest.fixture
def opened(encoder: Path, tmp_path: Path) -> Iterator[Path]:
    if BROWSER is None:
        pytest.skip("no Chromium here")
    out = tmp_path / "x.html"
    args = ["--model", str(encoder), "--token", "2", "--layer", "1", "--head", "3", "--dtype", "float32"]
    assert main(["attention", TEXT, HOSTILE, *args, "--out", str(out)]) == 0
    yield out


def test_a_browser_shows_what_is_chosen(opened: Path, view: View) -> None:
    """Layer, head, token, text, who looks at a token, and shares without special tokens."""
    seen = browsed(
        opened,
        """first: () => {}, kept: () => box(4).dispatchEvent(new Event("mouseenter")), clicked: () => box(4).click(),
        mean: () => { pick("layer", null); pick("head", null); }, turned: () => at("turned").click(),
        back: () => { at("turned").click(); box(4).dispatchEvent(new Event("focus")); },
        plain: () => at("plain").click(), square: () => document.querySelectorAll("#maps button")[1].click(),
        other: () => pick("text", 1)""",
    )
    one, mean = view.matrix(1, 3), view.matrix()
    assert shows(seen["first"], view, one[2], "What \u201canimal\u201d looks at (layer 1, head 3)")
    assert seen["kept"] == seen["first"]  # a token that was chosen stays
    assert shows(seen["clicked"], view, one[4], "What \u201ctired\u201d looks at (layer 1, head 3)")
    assert shows(seen["mean"], view, mean[4], "What \u201ctired\u201d looks at (layer mean, head mean)")
    assert shows(seen["turned"], view, mean[:, 4], "Who looks at \u201ctired\u201d (layer mean, head mean)")
    assert seen["back"] == seen["mean"]
    inner = np.where([token.special for token in view.keys], 0, mean[4])
    assert shows(seen["plain"], view, inner / inner.sum(), "What \u201ctired\u201d looks at")
    assert seen["square"][0].endswith("(layer 0, head 1)")
    assert seen["other"][0].endswith("(layer 0, head 1)") and seen["other"][1:] != seen["square"][1:]


def test_a_browser_shows_a_source_and_a_target(translator: Path, tmp_path: Path) -> None:
    if BROWSER is None:
        pytest.skip("no Chromium here")
    out = tmp_path / "x.html"
    args = ["--model", str(translator), "--dtype", "float32", "--target", "xyz!"]
    assert main(["attention", "abc", *args, "--out", str(out)]) == 0
    with fastlm.load(translator, dtype="float32") as model:
        cross, source, _ = look(model, "abc", "xyz!")
    steps = """cross: () => box(2, "queries").click(),
        source: () => { pick("part", 1); box(1).click(); box(1).click(); }"""
    seen = browsed(out, steps)
    assert shows(seen["cross"], cross, cross.matrix()[2], "What \u201cy\u201d looks at")
    assert shows(seen["source"], source, source.matrix()[1], "What \u201cb\u201d looks at")
