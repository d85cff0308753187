"""Chat templates: which a model has, which one is meant, and what a conversation becomes by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastlm.arguments import has_surrogate, shown
from fastlm.errors import FastlmError, ModelFormatError, ModelMemoryError, ParameterError
from fastlm.tokenizer.conversation import Plain, cut, field_to_continue, flag, mark_end, plain_messages, plain_records
from fastlm.weights.source import ModelSource

if TYPE_CHECKING:
    from fastlm.tokenizer.jinja.template import Template

_FOLDER = "additional_chat_templates"
_MAX_TEMPLATES = 64
_DEFAULT = "default"
_WITH_TOOLS = "tool_use"
# What templates hold that read a content as a list of parts, as sentence-transformers tells them from the others.
_PARTS = ("content[0]", ".type", "'type'", '"type"')
_ARGUMENTS = ("tools", "documents", "add_generation_prompt", "continue_final_message")


class ChatTemplate:
    """One chat template, translated at its first use.

    Parameters
    ----------
    source
        The Jinja text.
    where
        Its file, for error texts.
    tokens
        bos_token, eos_token and the like, which templates refer to: see `Tokenizer.special_tokens`.
    """

    def __init__(self, source: str, where: str, tokens: Mapping[str, str]) -> None:
        self.source = source
        self._where = where
        self._tokens = dict(tokens)

    @cached_property
    def _template(self) -> Template:
        from fastlm.tokenizer.jinja.template import Template

        return Template(self.source)

    @property
    def reads_parts(self) -> bool:
        """Whether it seems to read contents as lists of parts, not as texts."""
        return any(part in self.source for part in _PARTS)

    @property
    def names(self) -> frozenset[str]:
        """The variables that the template reads, and does not set itself before.

        Raises
        ------
        ModelFormatError
            It is no template.
        """
        with _typed(self._where):
            return self._template.names

    def render(self, messages: object, /, **variables: Any) -> str:
        """The text of a conversation, as transformers makes it.

        Parameters
        ----------
        messages
            A list of mappings, or of objects with such fields: a role, and mostly a content.
        tools, documents
            Lists of mappings, or None: JSON schemas of functions, and texts to answer from. Where the
            template does not read them, they are an error.
        add_generation_prompt
            End with the start of the answer (the default, unless the last message is continued).
        continue_final_message
            True, or the name of a field of the last message: end where its text ends; the answer goes on with it.
        **variables
            Others that the template reads, such as enable_thinking.

        Raises
        ------
        ParameterError
            The messages, or a variable, are not what this template takes.
        ModelFormatError
            The template is malformed, fails, or would take too much time or memory.
        """
        return self.conversation(messages, variables)

    def conversation(self, messages: object, variables: Mapping[Any, Any]) -> str:
        """As `render`; the names of `variables` may be anything yet."""
        _check_names(variables, self)
        plain, given = Plain(), dict(variables)
        field = field_to_continue(given.pop("continue_final_message", None))
        prompted = flag("add_generation_prompt", given.pop("add_generation_prompt", None))
        if field is not None and prompted:
            raise ParameterError("continue_final_message and add_generation_prompt exclude each other")
        shown_messages = plain_messages(plain, messages)
        seen = {name: plain_records(plain, name, given.pop(name, None)) for name in ("tools", "documents")}
        for name in (name for name, records in seen.items() if records and name not in self.names):
            raise ParameterError(f"the chat template reads no variable {name!r}: leave {name} out")
        others = {name: plain.copy(value, name) for name, value in given.items()}
        others |= {
            "messages": shown_messages,
            "add_generation_prompt": field is None if prompted is None else prompted,
        }
        text = None if field is None else mark_end(shown_messages, field, self.source)
        with _typed(self._where):
            from fastlm.tokenizer.jinja.meter import work_for

            made = self._template.render({**self._tokens, **seen, **others}, work_for(plain.characters, plain.items))
        if has_surrogate(made):
            raise ModelFormatError(f"{self._where}: the chat template makes a lone surrogate, which UTF-8 cannot say")
        return made if text is None else cut(made, text)


def _check_names(names: Iterable[object], template: ChatTemplate) -> None:
    """Raise ParameterError for a variable that the template does not read."""
    for name in names:
        if not isinstance(name, str):
            raise ParameterError(f"template_kwargs: {shown(name)} is no name of a variable")
        if name == "messages":
            raise ParameterError("template_kwargs: messages cannot be one of them; they are the first argument")
        if name not in _ARGUMENTS and name not in template.names:
            from difflib import get_close_matches  # here, because importing it takes a millisecond

            near = get_close_matches(name[:64], [*_ARGUMENTS, *sorted(template.names)], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"the chat template reads no variable {shown(name)}{hint}")


@contextmanager
def _typed(where: str) -> Iterator[None]:
    """Whatever a template does wrong in the block is an error that names its file."""
    import jinja2

    from fastlm.tokenizer.jinja.functions import Refusal
    from fastlm.tokenizer.jinja.meter import Exhausted

    try:
        yield
    except FastlmError:
        raise
    except Refusal as error:
        raise ParameterError(f"{where}: the chat template refuses these messages: {error}") from None
    except Exhausted:
        raise ModelFormatError(f"{where}: the chat template does far more than the messages ask for") from None
    except jinja2.TemplateSyntaxError as error:
        raise ModelFormatError(f"{where}: the chat template fails: line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ModelFormatError(f"{where}: the chat template is nested too deeply") from error
    except MemoryError as error:
        raise ModelMemoryError(f"{where}: out of memory for the chat template") from error
    except Exception as error:
        raise ModelFormatError(f"{where}: the chat template fails: {str(error)[:300]}") from error


class ChatTemplates:
    """The chat templates of a model, by name."""

    def __init__(self, templates: Mapping[str, ChatTemplate]) -> None:
        self._templates = dict(templates)

    def render(self, messages: object, variables: Mapping[Any, Any]) -> str:
        """As `ChatTemplate.render`, by the template that the variable chat_template names.

        None: "tool_use" where there are tools and such a template, else "default".
        """
        variables = dict(variables)
        chosen = self._choose(variables.pop("chat_template", None), variables.get("tools") is not None)
        return chosen.conversation(messages, variables)

    def source(self, variables: Mapping[Any, Any]) -> str:
        """The text of the template that `render` takes."""
        return self._choose(variables.get("chat_template"), variables.get("tools") is not None).source

    @property
    def reads_parts(self) -> bool:
        """Whether the default template reads contents as lists of parts, not as texts."""
        default = self._templates.get(_DEFAULT)
        return default is None or default.reads_parts

    def _choose(self, name: object, tools: bool) -> ChatTemplate:
        if name is None:
            name = _WITH_TOOLS if tools and _WITH_TOOLS in self._templates else _DEFAULT
        if isinstance(name, str) and "{" in name and name not in self._templates:
            raise ParameterError(
                "chat_template: takes the name of a template, not its text: write it to chat_template.jinja in the "
                "model's folder"
            )
        if not isinstance(name, str) or name not in self._templates:
            names = ", ".join(sorted(self._templates))
            raise ParameterError(f"chat_template: the model has no {shown(name)}, only {names}: name one of them")
        return self._templates[name]


# ---- the files of a model -----------------------------------------------------------------------


def load_templates(model: ModelSource, tokens: Mapping[str, str]) -> ChatTemplates | None:
    """The chat templates of a model, which see these special tokens; None if it has none.

    Those of chat_template.jinja and of additional_chat_templates/ count before chat_template.json, and this one before
    tokenizer_config.json.
    """
    found = _files(model)
    for name in ("chat_template.json", "tokenizer_config.json"):
        if _DEFAULT not in found:
            where = model.describe(name)
            sources = _named((model.read_json(name) or {}).get("chat_template"), where)
            found |= {other: (source, where) for other, source in sources.items() if other not in found}
    if not found:
        return None
    return ChatTemplates({name: ChatTemplate(source, where, tokens) for name, (source, where) in found.items()})


def template_files(model: ModelSource) -> list[str]:
    """Names of the files that are templates; those in additional_chat_templates/ have the name of their template."""
    more = [f"{_FOLDER}/{name}" for name in model.names(_FOLDER) if name.endswith(".jinja")]
    if len(more) > _MAX_TEMPLATES:
        raise ModelFormatError(f"{model.describe(_FOLDER)}: holds more than {_MAX_TEMPLATES} templates")
    return [*more, "chat_template.jinja"]


def _files(model: ModelSource) -> dict[str, tuple[str, str]]:
    """Templates that have a file of their own, by name: the text, and the file."""
    found = {}
    for file in template_files(model):
        name = file.rpartition("/")[2].removesuffix(".jinja") if "/" in file else _DEFAULT
        data, where = model.read(file), model.describe(file)
        if data is not None:
            try:
                found[name] = data.decode("utf-8"), where
            except UnicodeDecodeError:
                raise ModelFormatError(f"{where}: not UTF-8") from None
    return found


def _named(value: object, where: str) -> dict[str, str]:
    """The templates in a field chat_template: one, or several with names."""
    if value is None:
        return {}
    items = list(value.items()) if isinstance(value, dict) else [(_DEFAULT, value)]
    if isinstance(value, list):
        items = [(item.get("name"), item.get("template")) if isinstance(item, dict) else (None, item) for item in value]
    if not all(isinstance(name, str) and isinstance(source, str) for name, source in items):
        raise ModelFormatError(
            f'{where}: chat_template must be a string, or a list of {{"name": ..., "template": ...}}'
        )
    return dict(items)
