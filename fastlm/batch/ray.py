"""A model over the datasets of Ray Data: on all cores of all machines of a cluster.

    rows = fastlm.batch.ray.generate(dataset, "path/to/model", "Translate: {text}", pool=Pool(actors=8, threads=4))
    rows.write_parquet("out")

It needs the extra: pip install 'fastlm[ray]'. What an actor does with its rows is what `fastlm.batch` does with them,
and gives the same, whatever their number. docs/server.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fastlm.arguments import shown, whole
from fastlm.batch import rows, texts
from fastlm.batch.template import Template, template_of
from fastlm.errors import ParameterError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow

    from fastlm.model import Model

__all__ = ["Pool", "classify", "embed", "generate"]

Path = str | os.PathLike[str] | None
Work = Callable[[Iterable[Mapping[str, Any]], "Model"], Iterator[dict[str, Any]]]
MAX_ACTORS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Actors of Ray, each of which loads the model for itself.

    Attributes
    ----------
    actors
        How many; (least, most): as many of them as there is work for.
    threads
        Of each one's model, and the CPUs that Ray sets aside for it.
    batch_rows
        Rows that an actor is given at a time. What it has begun is begun again where it dies.
    load
        Other arguments of `fastlm.load`, such as {"dtype": "int8"}.
    adapters
        Folders of adapters by the names that calls give them.
    """

    actors: int | tuple[int, int] = 1
    threads: int = 1
    batch_rows: int = 1024
    load: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bounds = self.actors if isinstance(self.actors, tuple) and len(self.actors) == 2 else (self.actors,)
        if list(bounds) != sorted(whole(n, "actors", 1, MAX_ACTORS) for n in bounds):
            raise ParameterError(f"actors must be a number, or the least and the most, not {shown(self.actors)}")
        whole(self.threads, "threads", 1, 1 << 16)
        whole(self.batch_rows, "batch_rows", 1, 1 << 20)
        if not isinstance(self.load, Mapping) or not isinstance(self.adapters, Mapping):
            raise ParameterError("load and adapters must be mappings: options of fastlm.load, and folders by names")
        if "threads" in self.load:
            raise ParameterError("load: threads: say it as Pool(threads=...), so that Ray knows it, too")


def generate(
    dataset: Any,
    model: Path,
    prompt: str | Template,
    *,
    pool: Pool | None = None,
    output: str = "output",
    **options: Any,
) -> Any:
    """Write a text for each row of a dataset.

    Parameters
    ----------
    dataset
        A `ray.data.Dataset`.
    model
        What `fastlm.load` takes as its path: a path or a cached hub id on every machine, or None: the packaged model.
    prompt
        A text with names of columns in braces.
    pool
        How many actors, and with what; None: one with one thread.
    output
        The column that gets the text, a string. Beside it there are `finish_reason` and `error`, of which one is null.
    **options
        As of `fastlm.batch.generate`: chat, system, row_params, at_once, and parameters of `Model.generate`.

    Returns
    -------
    ray.data.Dataset
        The rows, in their order, with these columns; it is computed when it is read, as Ray's datasets are. An actor
        that dies is replaced, and each row is still there once.

    Raises
    ------
    UnsupportedError
        Ray is not installed.
    ParameterError
        The prompt or the pool is wrong. What is wrong with the model or the options is known where it is loaded: then
        reading the dataset raises what the actor raised.
    """
    work = partial(rows.generate, prompt=template_of(prompt), output=output, **options)
    return _mapped(dataset, model, pool, work, {output: _strings, "finish_reason": _strings, "error": _strings})


def embed(
    dataset: Any,
    model: Path,
    text: str | Template,
    *,
    pool: Pool | None = None,
    output: str = "embedding",
    **options: Any,
) -> Any:
    """Vectors of a text for each row: lists of float32, or null where the column `error` says why there is none.

    The options are those of `fastlm.batch.embed`; all else is as of `generate`.
    """
    work = partial(texts.embed, text=template_of(text, "text"), output=output, **options)
    return _mapped(dataset, model, pool, work, {output: _vectors, "error": _strings})


def classify(
    dataset: Any,
    model: Path,
    text: str | Template,
    *,
    pool: Pool | None = None,
    output: str = "labels",
    **options: Any,
) -> Any:
    """Labels of a text for each row: lists of {"label", "score"}, best first, or null beside an `error`.

    The options are those of `fastlm.batch.classify`; all else is as of `generate`.
    """
    work = partial(texts.classify, text=template_of(text, "text"), output=output, **options)
    return _mapped(dataset, model, pool, work, {output: _labels, "error": _strings})


Column = Callable[[Sequence[Any]], "pyarrow.Array"]


def _mapped(dataset: Any, model: Path, pool: Pool | None, work: Work, columns: Mapping[str, Column]) -> Any:
    try:
        from ray.data import ActorPoolStrategy, Dataset
    except ImportError as error:
        raise UnsupportedError(f"fastlm.batch.ray needs its extra: pip install 'fastlm[ray]' ({error})") from error
    if not isinstance(dataset, Dataset):
        raise ParameterError(f"dataset must be a ray.data.Dataset, not {shown(dataset)}; lists go to fastlm.batch")
    if not isinstance(model, str | os.PathLike | None):
        raise ParameterError(f"model must be a path, from which each actor loads its own, not {shown(model)}")
    pool = Pool() if pool is None else pool
    if not isinstance(pool, Pool):
        raise ParameterError(f"pool must be a Pool, not {shown(pool)}")
    least, most = pool.actors if isinstance(pool.actors, tuple) else (pool.actors, pool.actors)
    mapped = dataset.map_batches(
        Actor,
        fn_constructor_args=(None if model is None else os.fspath(model), pool, work, columns),
        batch_format="pyarrow",
        batch_size=pool.batch_rows,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=pool.threads,
        udf_modifying_row_count=False,
    )
    mapped.context.execution_options.preserve_order = True
    return mapped


class Actor:
    """What Ray runs in a process of its own: a model, and what it makes of batches of rows."""

    def __init__(self, model: str | None, pool: Pool, work: Work, columns: Mapping[str, Column]) -> None:
        from fastlm.loading import load

        self._model = load(model, threads=pool.threads, **pool.load)
        for name, folder in pool.adapters.items():
            self._model.load_adapter(name, folder)
        self._work = work
        self._columns = columns
        work([], self._model)  # says what is wrong with its options

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The table with the columns that it gets."""
        found = list(self._work(table.to_pylist(), self._model))
        for name, column in self._columns.items():
            values = column([row.get(name) for row in found])
            at = table.schema.get_field_index(name)
            table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
        return table


def _strings(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array(values, pyarrow.string())


def _vectors(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    return pyarrow.array(values, pyarrow.list_(pyarrow.float32()))


def _labels(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    kind = pyarrow.list_(pyarrow.struct([("label", pyarrow.string()), ("score", pyarrow.float64())]))
    listed = [None if labels is None else [asdict(label) for label in labels] for labels in values]
    return pyarrow.array(listed, kind)
