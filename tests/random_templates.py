"""Random Jinja templates: tame ones, whose text can be compared with Jinja's own, and wild ones, which run away."""

from __future__ import annotations

import random


def words(*lines: str) -> list[str]:
    return [word for line in lines for word in line.split()]


NAMES = words("messages tools m x y ns loop bos_token add_generation_prompt missing caller")
FIELDS = words(
    "role content x y items keys values get tool_calls index last length first previtem nextitem revindex a upper",
    "append __class__ _x name cycle depth",
)
TEXTS = [
    "",
    " ",
    "a",
    "abc",
    "a b  c",
    "user",
    "</think>",
    "%s",
    "%d|%5s",
    "{}",
    "{0}{x}",
    "é漢😀",
    "a,b,c",
    "A-b",
    "\\n",
]
METHODS = words(
    "strip upper split replace join startswith find rfind count format title get items keys values index lower lstrip",
    "rsplit splitlines center zfill expandtabs partition rpartition ljust copy endswith capitalize isdigit",
    "removeprefix translate",
)
FILTERS = words(
    "trim upper lower length list string tojson join first last replace default int float abs round sort unique",
    "reverse map select selectattr reject sum rejectattr dictsort items batch slice groupby indent title capitalize",
    "min max center truncate wordcount format count attr safe urlize nothing",
)
TESTS = words(
    "defined undefined none string mapping number sequence iterable odd even boolean integer float true false",
    "callable upper lower eq(1) in([1,'a']) divisibleby(2) sameas(x) equalto('user') ne(2) lt(3) ge('a')",
)
BY_NAME = [
    "'role'",
    "'content'",
    "'upper'",
    "'string'",
    "'x'",
    "'defined'",
    "'equalto'",
    "attribute='role'",
    "'length'",
]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "and", "or", "==", "!=", "<", "<=", ">", "in", "not in"]

# Of scenes, by kind: what is large, what it meets, and how it grows.
LARGE = {
    "text": [
        *("'a' * 300000", "'a b' * 99999", "'ab' * 9", "'\\n' * 99999", "'é😀' * 50000", "'%s{}' * 9999"),
        "'<|' * 99999",
    ],
    "list": [
        *("[1] * 50000", "['a'] * 9", "range(9999)|list", "[['a', 2]] * 999", "[ns, missing]", "'ab' | list"),
        "messages",
    ],
    "table": ["{'a': 1}", "dict.fromkeys(range(9999))", "dict(a=[1], b={})", "{1.5: 'x', none: 2}", "messages[0]"],
    "number": ["2 ** 4000", "3", "7 ** 1400", "1.5", "-1", "true", "2 ** 61 - 1"],
}
SMALL = {
    "text": ["'a'", "'ab' * 50 + 'c'", "'a' * 5000 + 'b'", "'%99999d'", "'{:99999}'", "'é'", "' '"],
    "list": ["[1]", "[]", "['a', [1]]", "(1, 2)", "range(3)"],
    "table": ["'a'", "{'b': 2}", "1.5", "'role'"],
    "number": ["2", "2 ** 4000", "-3", "0", "1e300"],
}
GROWTH = {
    "any": ["[ns.x]", "[ns.x, ns.x]", "(ns.x,)", "{'a': ns.x, 'b': ns.x}", "{i: ns.x}", "ns.x", "ns", "ns.x|string"],
    "text": [
        *("ns.x + ns.x", "ns.x ~ i", "ns.x * 2", "ns.x.replace('a', ns.x)", "ns.y.join(ns.x)", "ns.x|tojson"),
        "ns.x|e",
    ],
    "list": [
        *("ns.x + ns.x", "ns.x + [i]", "ns.x * 2", "ns.x|list", "[ns.x] * 9", "ns.x|batch(2)|list"),
        "ns.x + [ns.x]",
    ],
    "table": [
        *("dict(ns.x, a=ns.x)", "dict(ns.x|items)", "ns.x|dictsort", "{'a': ns.x.items(), 'b': ns.x}"),
        "dict.fromkeys([i])",
    ],
    "number": [
        *("ns.x * ns.x", "ns.x + i", "ns.x ** 2", "ns.x * 3", "ns.x // 7", "-ns.x", "ns.x|string|int"),
        "ns.x ** 1.5",
    ],
}


class Writer:
    """Writes templates.

    Parameters
    ----------
    draw
        Where the choices come from.
    wild
        With large numbers, long texts, and structures that double.
    """

    def __init__(self, draw: random.Random, wild: bool) -> None:
        self.draw = draw
        self.wild = wild

    def template(self) -> str:
        self.left = self.draw.randint(5, 60) if self.wild else self.draw.randint(1, 8)
        start = "{% set ns = namespace(x=[1, 'a'], y=2) %}" if self.draw.random() < 0.6 else ""
        return start + self.body(0)

    def scene(self) -> str:
        """Something large, made larger, and operations on it over and over."""
        draw = self.draw
        kind = draw.choice([*LARGE])
        made = f"{{% set ns = namespace(x={draw.choice(LARGE[kind])}, y={draw.choice(SMALL[kind])}) %}}"
        if draw.random() < 0.7:
            growth = draw.choice([*GROWTH["any"], *GROWTH[kind], *GROWTH[kind]])
            made += (
                f"{{% for i in range({draw.choice([3, 12, 40, 100000])}) %}}{{% set ns.x = {growth} %}}{{% endfor %}}"
            )
        operations = "".join(self.operation(kind) for _ in range(draw.randint(1, 3)))
        values = draw.choice(["range(3)", "range(1000)", "range(100000)", "ns.x"])
        return f"{made}{{% for i in {values} %}}{operations}{{% endfor %}}"

    def operation(self, kind: str) -> str:
        """A statement with ns.x, which is text, a list, a table or a number at first."""
        draw = self.draw
        value = draw.choice(["ns.x", "ns.x", "ns.x", "ns", "[ns.x, ns.x]"])
        values = ["ns.x", "ns.y", "i", "1", "0", "5000", "99999", "'a'", "10**9", "-1", "''"]
        arguments = [draw.choice(values), draw.choice(values)]
        names = draw.choice([[], arguments[:1], arguments])
        listed = ", ".join(names)
        made = draw.choice(
            [
                *[f"{value}.{draw.choice(METHODS)}({listed})"] * 3,
                *[f"{value}|{draw.choice(FILTERS)}" + (f"({listed})" if names else "")] * 4,
                *[f"{value} {draw.choice(OPERATORS)} {arguments[0]}"] * 3,
                f"{value}|{draw.choice(['map', 'select', 'sort', 'groupby', 'sum'])}({draw.choice(BY_NAME)})",
                f"{value}[{arguments[0]}:{arguments[1]}]",
                f"{value}[{arguments[0]}]",
                f"{{{arguments[0]}: {value}}}",
                f"dict.fromkeys({value}, {arguments[0]})",
                f"range({value}|length)|list",
                f"{value} is in {arguments[0]}",
            ]
        )
        used = ["{{ @ }}", "{% set z = @ %}", "{% set ns.y = @ %}", "{{ (@)|length }}", "{% if @ %}{% endif %}"]
        return draw.choice(used).replace("@", made)

    def body(self, depth: int) -> str:
        return "".join(self.statement(depth) for _ in range(self.draw.randint(1, 4 if self.wild else 2)))

    def statement(self, depth: int) -> str:
        self.left -= 1
        if depth > 4 or self.left < 0:
            return "{{ " + self.expression(3) + " }}"
        kinds = [self.text, self.output, self.output, self.choice, self.loop, self.loop, self.assign, self.assign]
        kinds += [self.block, self.macro, self.scope]
        return self.draw.choice(kinds)(depth)

    def text(self, depth: int) -> str:
        return self.draw.choice(["text ", "\n", "  \n", "<|im_start|>", "{# comment #}", "{% raw %}{{{% endraw %}"])

    def output(self, depth: int) -> str:
        left, right = self.draw.choice(["{{", "{{-"]), self.draw.choice(["}}", "-}}"])
        return f"{left} {self.expression(depth)} {right}"

    def choice(self, depth: int) -> str:
        made = f"{{% if {self.expression(depth)} %}}{self.body(depth + 1)}"
        for _ in range(self.draw.randrange(2)):
            made += f"{{% elif {self.expression(depth)} %}}{self.body(depth + 1)}"
        return made + self.draw.choice(["", f"{{% else %}}{self.body(depth + 1)}"]) + "{% endif %}"

    def loop(self, depth: int) -> str:
        draw = self.draw
        target = draw.choice(["m", "m", "x", "x, y"])
        values = draw.choice(["messages", "tools", "ns.x", "range(3)", "x", self.expression(depth)])
        if self.wild and draw.random() < 0.5:
            values = draw.choice(["range(100000)", "range(40)", "ns.x", "'a' * 1000000"])
        test = f" if {self.expression(2)}" if draw.random() < 0.2 else ""
        recursive = " recursive" if draw.random() < 0.1 else ""
        inside = self.body(depth + 1)
        if recursive and draw.random() < 0.7:
            inside += "{{ loop(" + draw.choice(["[1]", "x", "m", "[m]"]) + ") if loop.depth < 3 }}"
        if draw.random() < 0.2:
            inside += f"{{% if {self.expression(3)} %}}{{% {draw.choice(['break', 'continue'])} %}}{{% endif %}}"
        if self.wild:
            inside += self.doubling()
        otherwise = f"{{% else %}}{self.body(depth + 1)}" if draw.random() < 0.1 else ""
        return f"{{% for {target} in {values}{test}{recursive} %}}{inside}{otherwise}{{% endfor %}}"

    def doubling(self) -> str:
        kind = self.draw.choice([*GROWTH])
        value = self.draw.choice(GROWTH[kind])
        return f"{{% set ns.x = {value} %}}" if self.draw.random() < 0.5 else ""

    def assign(self, depth: int) -> str:
        target = self.draw.choice(["x", "y", "m", "ns.x", "ns.y", "x, y"])
        value = self.expression(depth) if target != "x, y" else f"({self.expression(depth)}, {self.expression(depth)})"
        return f"{{% set {target} = {value} %}}"

    def block(self, depth: int) -> str:
        name = self.draw.choice(["upper", "trim", "indent(2)", "replace('a', 'b')"])
        kind = self.draw.choice([("set x", "endset"), ("set y | " + name, "endset"), ("filter " + name, "endfilter")])
        return f"{{% {kind[0]} %}}{self.body(depth + 1)}{{% {kind[1]} %}}"

    def macro(self, depth: int) -> str:
        draw = self.draw
        name = draw.choice(["f", "g"])
        parameters = draw.choice(["", "x", "x, y=1", "x=ns, caller=none", "m, y=x"])
        arguments = draw.choice(["", "1", "x", "1, 2", "y=2", "*[1, 2]", "**{'x': 1}", "m, y=messages"])
        inside = self.body(depth + 1) + draw.choice(["", "", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}"])
        call = f"{{{{ {name}({arguments}) }}}}"
        if draw.random() < 0.2:
            call = f"{{% call {name}({arguments}) %}}{self.body(depth + 1)}{{% endcall %}}"
        if self.wild and draw.random() < 0.3:
            inside += call
        return f"{{% macro {name}({parameters}) %}}{inside}{{% endmacro %}}{call}"

    def scope(self, depth: int) -> str:
        if self.draw.random() < 0.5:
            return f"{{% with x = {self.expression(depth)}, y = x %}}{self.body(depth + 1)}{{% endwith %}}"
        return f"{{% generation %}}{self.body(depth + 1)}{{% endgeneration %}}"

    # ---- expressions --------------------------------------------------------------------------

    def expression(self, depth: int) -> str:
        draw = self.draw
        if depth > (4 if self.wild else 2) or draw.random() < 0.25:
            return draw.choice([draw.choice(NAMES), self.constant(), self.constant()])
        kinds = [self.part, self.part, self.operator, self.operator, self.filter, self.filter, self.call, self.call]
        return draw.choice([*kinds, self.test, self.container, self.condition, self.sign])(depth + 1)

    def constant(self) -> str:
        draw = self.draw
        numbers = ["0", "1", "2", "7", "-1", "1.5"]
        if self.wild:
            numbers += ["100000", "99999", "10**9", "2**60", "4000", "16777215", "1e308", "3000000"]
            if draw.random() < 0.2:
                return draw.choice(
                    ["('a' * 1000000)", "('ab\\n' * 300000)", "([1] * 100000)", "('é' * 500000)", "(2**9999)"]
                )
        return draw.choice([draw.choice(numbers), repr(draw.choice(TEXTS)).replace("\\\\", "\\"), "true", "none"])

    def part(self, depth: int) -> str:
        owner = self.expression(depth)
        first, second = self.draw.choice(["", "0", "1", "-1"]), self.draw.choice(["", "1", "-1", "5"])
        step = self.draw.choice(["", ":-1", ":2"])
        return self.draw.choice(
            [
                f"{owner}.{self.draw.choice(FIELDS)}",
                f"{owner}['{self.draw.choice(FIELDS)}']",
                f"{owner}[{self.expression(depth)}]",
                f"{owner}[{first}:{second}{step}]",
                f"{owner}[0]",
            ]
        )

    def operator(self, depth: int) -> str:
        chain = f" {self.draw.choice(['<', '==', 'in'])} {self.expression(depth)}" if self.draw.random() < 0.1 else ""
        return f"({self.expression(depth)} {self.draw.choice(OPERATORS)} {self.expression(depth)}{chain})"

    def filter(self, depth: int) -> str:
        name = self.draw.choice(FILTERS)
        arguments = [self.expression(depth + 1) for _ in range(self.draw.choice([0, 0, 0, 1, 1, 2]))]
        if name in ("map", "select", "selectattr", "reject", "rejectattr", "sum", "groupby", "sort", "attr", "join"):
            arguments = [self.draw.choice(BY_NAME), *arguments[1:]]
        made = f"{self.expression(depth)}|{name}" + (f"({', '.join(arguments)})" if arguments else "")
        return f"({made})" + ("|list" if name in ("map", "select", "selectattr", "reject", "reverse", "batch") else "")

    def call(self, depth: int) -> str:
        draw = self.draw
        arguments = [self.expression(depth) for _ in range(draw.choice([0, 0, 1, 1, 2]))]
        functions = ["range", "dict", "namespace", "cycler", "joiner", "f", "g", "strftime_now", "raise_exception"]
        callee = draw.choice([*functions, *[f"{self.expression(depth)}.{draw.choice(METHODS)}"] * 20])
        named = draw.choice(["", "", "", "x=1", "y='a'"])
        return f"{callee}({', '.join([*arguments, *([named] if named else [])])})"

    def test(self, depth: int) -> str:
        return f"({self.expression(depth)} is {self.draw.choice(['', 'not '])}{self.draw.choice(TESTS)})"

    def container(self, depth: int) -> str:
        inside = [self.expression(depth) for _ in range(self.draw.randint(0, 3))]
        pairs = ", ".join(f"{self.draw.choice(['1', repr('a'), repr('x'), self.expression(4)])}: {v}" for v in inside)
        tuple_ = f"({', '.join(inside)},)" if inside else "()"
        return self.draw.choice([f"[{', '.join(inside)}]", tuple_, "{" + pairs + "}"])

    def condition(self, depth: int) -> str:
        otherwise = f" else {self.expression(depth)}" if self.draw.random() < 0.8 else ""
        return f"({self.expression(depth)} if {self.expression(depth)}{otherwise})"

    def sign(self, depth: int) -> str:
        return f"({self.draw.choice(['not ', '-', '+'])}{self.expression(depth)})"
