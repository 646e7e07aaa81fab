"""The plan of the house: rooms import only rooms above them in this list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "src" / "lopsided"
ROOMS = [
    *("errors", "finite", "stats", "settings", "plugins", "method", "methods", "files"),
    *(
        "formatting",
        "models",
        "tuner",
        "optim",
        "adapt",
        "calibrate",
        "baselines",
        "export",
        "testing",
        "tasks",
        "theory",
    ),
    *(
        "curvature",
        "runs",
        "serving",
        "verify",
        "doctor",
        "plotting",
        "diagnose",
        "advise",
        "federated",
        "lab",
        "study",
        "report",
    ),
]


def test_imports_go_one_way():
    for path in HOUSE.rglob("*.py"):
        room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room != "__init__" and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lopsided."):
                other = node.module.split(".")[1]
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path}: {room} imports {other}"


SIDE_WORDS = {"B", "A", "AB", "coin", "all", "head", "peft"}
SIDE_CLASSES = {"Side", "AdapterSide", "LinkSide", "B", "A", "Both", "Coin", "Whole", "Head", "Peft"}
# In these rooms `.side` is a letter of a factor, in mathematics that knows no methods.
LETTERS_OF_MATHEMATICS = ("lab", "theory")


class SideBranches(ast.NodeVisitor):
    """Lines that decide by a method's side instead of asking it.

    What is looked for, where x is `<something>.train`, an attribute of `<something>.side` or `.adapter_side` such as
    `.word` or `.letters`, or a name that one of these was assigned to:

    - x compared with anything, `in` included;
    - `side`, `.side`, `["train"]`, `["trains"]` or `["side"]` compared with a side's word or class;
    - x as the key of a table, by subscript or `.get`; the form that a run saves, `.saved_as`, may be one;
    - x as the subject of `match`;
    - `isinstance` and `issubclass` of a side's class.
    """

    def __init__(self, tree: ast.AST, *, letters: bool = False) -> None:
        self.letters, self.lines = letters, set()
        self.names = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and self._is_side(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self.visit(tree)

    def _is_side(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in getattr(self, "names", ())
        if not isinstance(node, ast.Attribute):
            return False
        holder = node.value
        return node.attr == "train" or (isinstance(holder, ast.Attribute) and holder.attr in ("side", "adapter_side"))

    def _may_be_side(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute) and node.attr in ("side", "adapter_side"):
            return not self.letters
        if isinstance(node, ast.Name) and node.id in ("side", "adapter_side"):
            return not self.letters
        key = node.slice if isinstance(node, ast.Subscript) else None
        return isinstance(key, ast.Constant) and key.value in ("train", "side", "trains")

    def _names_side(self, node: ast.AST) -> bool:
        words = isinstance(node, ast.Constant) and node.value in SIDE_WORDS
        return words or (isinstance(node, ast.Name) and node.id in SIDE_CLASSES)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        operands += [item for o in operands if isinstance(o, ast.Tuple | ast.List | ast.Set) for item in o.elts]
        operands += [call.func for call in operands if isinstance(call, ast.Call)]
        compared = any(map(self._may_be_side, operands)) and any(map(self._names_side, operands))
        if compared or any(map(self._is_side, operands)):
            self.lines.add(node.lineno)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._is_side(node.slice) and not (isinstance(node.slice, ast.Attribute) and node.slice.attr == "saved_as"):
            self.lines.add(node.lineno)
        self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> None:
        if self._is_side(node.subject) or self._may_be_side(node.subject):
            self.lines.add(node.lineno)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        looked_up = isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args
        if looked_up and (self._is_side(node.args[0]) or self._may_be_side(node.args[0])):
            self.lines.add(node.lineno)
        if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
            classes = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            classes |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            if classes & SIDE_CLASSES:
                self.lines.add(node.lineno)
        self.generic_visit(node)


def test_no_branch_on_a_methods_side_outside_of_method():
    root = HOUSE.parents[1]
    places = []
    for folder in (root / "src", root / "benchmarks"):
        for path in folder.rglob("*.py"):
            room = path.relative_to(HOUSE).parts[0] if path.is_relative_to(HOUSE) else ""
            if room == "method":
                continue
            letters = room in LETTERS_OF_MATHEMATICS
            lines = SideBranches(ast.parse(path.read_text()), letters=letters).lines
            places += [f"{path.relative_to(root)}:{line}" for line in sorted(lines)]
    assert not places, f"ask the side (lopsided.method.side_contract), at {', '.join(places)}"


@pytest.mark.parametrize(
    ("code", "is_branch"),
    [
        ('whole = method.train == "all"', True),
        ('if config.method.train in ("all", "head"): pass', True),
        ('width = {"A": d_out}[method.train]', True),
        ('width = {"A": d_out}.get(method.train, d_in)', True),
        ("title = TRAINS[method.train]", True),
        ('train = config.as_method().train\nletters = "C" if train == "coin" else train', True),
        ('if method.side.word == "AB": pass', True),
        ('if method.adapter_side.letters == "C": pass', True),
        ('if method.side.saved_as == "head": pass', True),
        ('if total.side == "AB": pass', True),
        ('single = [t for t in totals if t["side"] != "AB"]', True),
        ('floor = record["train"] == "head"', True),
        ('transposed = weight.T if side == "A" else weight', True),
        ("coin = isinstance(method.side, Coin)", True),
        ("coin = isinstance(method.side, (method.B, method.Coin))", True),
        ("coin = type(side) is Coin or adapter.side == B()", True),
        ("match method.train:\n    case 'B': pass", True),
        ("found = FORMS[method.side.saved_as].load(folder)", False),
        ('error = f"method {method.name} trains {method.train!r}"', False),
        ("key = (method.train, method.sketch)", False),
        ("width = method.adapter_side.sketched_width(d_out, d_in)", False),
        ('rows = len(data.splits["train"])', False),
        ("model.train(was_training)", False),
    ],
)
def test_the_check_of_branches_on_sides_can_fail(code, is_branch):
    assert bool(SideBranches(ast.parse(code)).lines) == is_branch


# Where the name of a run's record stands outside `runs/`, and why.
NAMES_THE_RECORD: dict[str, str] = {}


def imports_runs(tree: ast.AST) -> bool:
    """Whether a module could read run directories; other files have records of their own."""
    froms = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(f"{module}.".startswith("lopsided.runs.") for module in froms)


def readings_of_a_record(tree: ast.AST) -> Iterator[str]:
    """What a module reads of `run.json` without `Run`: its name as a path, a record's attribute, its keys."""
    reads_runs = imports_runs(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).rpartition("/")[2] == "run.json":
            yield f"line {node.lineno}: the name run.json; take lopsided.runs.RECORD, or read with lopsided.runs.Run"
        elif reads_runs and isinstance(node, ast.expr) and is_part_of_a_record(node):
            yield f"line {node.lineno}: {ast.unparse(node)}; take a property of lopsided.runs.Run"


def is_part_of_a_record(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(attr="record"):
            return True
        case ast.Subscript(value=ast.Name(id="record"), slice=ast.Constant(value=str())):
            return True
        case ast.Subscript(value=ast.Call(func=ast.Attribute(attr="to_json")), slice=ast.Constant(value=str())):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="record"), attr="get")):
            return True
    return False


def test_a_run_directory_is_read_through_run_alone():
    found = {}
    for path in [*HOUSE.rglob("*.py"), *HOUSE.with_name("lopsided_cli").rglob("*.py")]:
        name = path.relative_to(HOUSE.parent).as_posix().removeprefix("lopsided/")
        if not name.startswith("runs/") and (readings := list(readings_of_a_record(ast.parse(path.read_text())))):
            found[name] = readings
    assert found.keys() == NAMES_THE_RECORD.keys(), found


def test_the_gate_for_run_directories_sees_what_it_forbids():
    runs = "from lopsided.runs import Run\n"
    forbidden = ["run.record", 'record["config"]', 'record.get("status")', 'run.to_json()["metrics"]']
    for source in ['folder / "run.json"', 'open("a/run.json")', *(runs + source for source in forbidden)]:
        assert list(readings_of_a_record(ast.parse(source))), source
    allowed = ['f"{folder} without a run.json"', "record[at]", "run.config", "run.to_json()", 'why.get("se")']
    for source in [*(runs + source for source in allowed), *forbidden]:
        assert not list(readings_of_a_record(ast.parse(source))), source


SOURCES = [*HOUSE.rglob("*.py"), *HOUSE.with_name("lopsided_cli").rglob("*.py")]
SOURCES += HOUSE.with_name("lopsided_settings").rglob("*.py")
SOURCES += (HOUSE.parents[1] / "docs_site").rglob("*.py")
MOST_LINES, MOST_LINES_OF_A_BODY = 350, 50
# Files that are named after an entry of a table: an experiment, a section, a verb.
NAMED_AFTER_ENTRIES = ("entries", "experiments", "sections", "lopsided_cli", "lopsided_settings")
# The tree of docs/architecture.md names these in two rooms each.
TWICE = {"config", "registry"}


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, its docstring aside."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lies_of_size(path: Path, text: str) -> list[str]:
    lines = text.count("\n")
    long = [f"{path}: {lines} lines"] if lines > MOST_LINES else []
    return long + [
        f"{path}:{function.lineno}: the body of {function.name} has {body_length(function)} lines"
        for function in functions(ast.parse(text))
        if body_length(function) > MOST_LINES_OF_A_BODY
    ]


def broad_excepts(tree: ast.AST) -> list[int]:
    """Lines that catch every error: bare, of `Exception` or of `BaseException`, alone or in a tuple."""
    broad = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds):
                broad.append(node.lineno)
    return broad


def undocumented(tree: ast.Module) -> list[str]:
    """Public definitions without a docstring; a method of a documented contract's implementation needs one, too."""

    def within(body: list[ast.stmt], prefix: str) -> list[str]:
        names = []
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            overloaded = any(ast.unparse(d) in ("overload", "typing.overload") for d in node.decorator_list)
            if ast.get_docstring(node) is None and not overloaded:
                names.append(f"{prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                names += within(node.body, f"{prefix}{node.name}.")
        return names

    module = [] if ast.get_docstring(tree) else ["the module"]
    return module + within(tree.body, "")


def is_one_letter_apart(a: str, b: str) -> bool:
    """Whether one insertion, deletion or change leads from one word to the other."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b)) == 1
    short, long = sorted((a, b), key=len)
    return any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def modules() -> list[Path]:
    return [path for path in SOURCES if path.name not in ("__init__.py", "__main__.py")]


def test_files_and_functions_fit_a_reader():
    assert not [line for path in SOURCES for line in lies_of_size(path, path.read_text())]


def test_no_except_is_broad():
    assert not [f"{path}:{line}" for path in SOURCES for line in broad_excepts(ast.parse(path.read_text()))]


def test_every_public_definition_is_documented():
    assert not [f"{path}: {name}" for path in SOURCES for name in undocumented(ast.parse(path.read_text()))]


def test_no_two_modules_are_one_letter_apart():
    names = sorted({path.stem for path in modules()})
    apart = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :] if is_one_letter_apart(a, b)]
    # A verb and the lab's entry about it, the table of methods next to the room that says what a method is made of, and
    # verbs next to types.
    assert apart == [("federate", "federated"), ("method", "methods"), ("model", "models"), ("task", "tasks")]


def test_no_module_has_the_name_of_another_one():
    own = [path.stem for path in modules() if not set(path.parts) & set(NAMED_AFTER_ENTRIES)]
    assert {name for name in own if own.count(name) > 1} == TWICE


def test_no_class_has_the_name_of_another_one_of_its_kind():
    classes = [
        node.name
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not {name for name in classes if classes.count(name) > 1}


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (lambda tree: broad_excepts(tree), "try:\n    f()\nexcept (OSError, Exception):\n    pass"),
        (lambda tree: broad_excepts(tree), "try:\n    f()\nexcept:\n    pass"),
        (lambda tree: undocumented(tree), '"""A module."""\ndef f(): ...'),
        (lambda tree: undocumented(tree), '"""A module."""\nclass C:\n    """A class."""\n    def f(self): ...'),
    ],
)
def test_the_gates_see_what_they_forbid(check, code):
    assert check(ast.parse(code))


def test_the_gate_of_sizes_sees_what_it_forbids():
    assert lies_of_size(Path("a"), "x = 1\n" * (MOST_LINES + 1))
    assert lies_of_size(Path("a"), "def f():\n" + "    x = 1\n" * (MOST_LINES_OF_A_BODY + 1))
    assert is_one_letter_apart("sketch", "sketches") is False
    assert is_one_letter_apart("figure", "figures")


def test_the_picture_of_the_rooms_is_drawn_from_these_imports(monkeypatch):
    monkeypatch.syspath_prepend(HOUSE.parents[1] / "docs")
    import draw_rooms

    assert draw_rooms.picture() == draw_rooms.PICTURE.read_text(encoding="utf-8"), "run: python docs/draw_rooms.py"
