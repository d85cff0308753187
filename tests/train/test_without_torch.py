"""What happens where the extra is not installed, and that the engine never loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HIDE = "import sys\nfor name in ('torch', 'transformers', 'peft', 'matplotlib'):\n    sys.modules[name] = None\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", HIDE + code], capture_output=True, text=True, check=False)


def test_commands_say_what_to_install(corpus: Path, tmp_path: Path) -> None:
    for words in (["train", str(corpus)], ["finetune", str(tmp_path), str(corpus)]):
        done = run(f"from fastlm.cli import main\nsys.exit(main({[*words, '--out', str(tmp_path / 'out')]!r}))")
        assert done.returncode in (1, 2) and not (tmp_path / "out").exists()
        assert "Traceback" not in done.stderr
        if words[0] == "train":
            assert "pip install '.[train]' in a clone" in done.stderr


def test_help_needs_no_torch() -> None:
    done = run("from fastlm.cli import main\nmain(['distill', '--help'])")
    assert done.returncode == 0 and "--temperature" in done.stdout


def test_import_loads_nothing_of_it() -> None:
    done = run("import fastlm\nprint([name for name in sys.modules if name.startswith('fastlm.train')])")
    assert done.stdout.strip() == "[]", done.stderr
