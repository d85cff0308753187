"""fastlm: language-model inference on ordinary CPUs, inside your own process.

import fastlm
model = fastlm.load("path/to/a/hugging-face/folder")
print(model.generate("Once upon a time", max_tokens=100))
"""

from importlib import import_module
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # as in typing, which takes time to import
if TYPE_CHECKING:
    from fastlm.public import *  # noqa: F403

_here = __path__  # noqa: F405
if PathFinder.find_spec("fastlm._core", _here) is None:
    raise ImportError(
        f"{_here[0]} is the source of fastlm, without its C core for this Python. Install it by `pip install .` in the "
        "folder above and start Python in another folder, or build it in place: docs/developing.md",
        name="fastlm._core",
    )

if not TYPE_CHECKING:

    def __getattr__(name):
        """A public name: a function, `__version__`, `__all__` or a class, as no module of the package is called."""
        if name == "load":  # which needs few of the others
            return import_module("fastlm.loading").load
        if name in ("max_sim", "__version__", "__all__") or name[:1].isupper():
            public = import_module("fastlm.public")
            if hasattr(public, name):
                return getattr(public, name)
        raise AttributeError(f"module 'fastlm' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *import_module("fastlm.public").__all__})
