"""Whether an installed wheel works, without pytest: the packaged model writes, also from several threads at once,
and its attention can be seen."""

from __future__ import annotations

import threading

import fastlm
from fastlm.look.page import page
from fastlm.look.view import look


def main() -> None:
    with fastlm.load(threads=2) as model:
        text = model.generate("Once upon", temperature=0, max_tokens=20).text
        assert text.startswith(" a time"), text
        found: list[str] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(model.generate("Once upon", temperature=0, max_tokens=20).text)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [text] * 4, found
        logits = model.forward(list(range(300))).logits
        assert logits is not None and logits.shape == (300, model.vocab)
        shown = page(
            [look(model, "Once upon a time")], "", {"part": "self", "layer": None, "head": None, "token": None}
        )
        assert b"$DATA" not in shown and shown.endswith(b"</html>\n"), shown[:99]
        print(f"fastlm {fastlm.__version__}: {model!r}, {model.engine.context.isa}: Once upon{text}")


if __name__ == "__main__":
    main()
