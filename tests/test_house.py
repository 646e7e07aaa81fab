"""The plan of the house: rooms import only rooms above them in this list."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "src" / "lopsided"
ROOMS = [
    *("errors", "formatting", "method", "methods", "files", "models", "tuner", "optim", "adapt", "export"),
    *("testing", "tasks", "theory", "runs", "verify", "plotting", "lab", "advise", "diagnose", "study", "report"),
]


def test_imports_go_one_way():
    for path in HOUSE.rglob("*.py"):
        room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room != "__init__" and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lopsided."):
                other = node.module.split(".")[1]
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path}: {room} imports {other}"


SIDE_WORDS = {"B", "A", "AB", "coin", "all", "head"}
SIDE_CLASSES = {"Side", "AdapterSide", "LinkSide", "B", "A", "Both", "Coin", "Whole", "Head"}
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
    for folder in (HOUSE, HOUSE.parent / "lopsided_cli", root / "benchmarks"):
        for path in folder.rglob("*.py"):
            rooms = path.relative_to(folder).parts
            if folder == HOUSE and rooms[0] == "method":
                continue
            letters = folder == HOUSE and rooms[0] in LETTERS_OF_MATHEMATICS
            lines = SideBranches(ast.parse(path.read_text()), letters=letters).lines
            places += [f"{path.relative_to(root)}:{line}" for line in sorted(lines)]
    assert not places, f"ask the side (lopsided.method.side), at {', '.join(places)}"


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
