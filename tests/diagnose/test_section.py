"""The table of sections: what is in it, in which order, and what is refused."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest

from lopsided import LopsidedError
from lopsided.diagnose import SECTIONS, DiagnoseConfig, Need, Section, register_section, section_names, sections
from lopsided.diagnose.diagnosis import _in_turn
from lopsided.diagnose.section_inputs import AdapterInputs
from lopsided.diagnose.tables import documentation, headings

USE = Path(__file__).parents[2] / "docs" / "use.md"
OF_PREDICTIONS = frozenset({Need.PREDICTIONS})


def nothing(inputs):
    return {}


def test_every_file_of_the_folder_is_an_entry():
    assert len(list(pkgutil.iter_modules(sections.__path__))) == len(SECTIONS)
    assert all(section.about and section.figures for section in SECTIONS.values())


def test_the_orders_that_people_and_programs_know():
    assert section_names() == ("generalization", "layers", "intruders", "landscape", "timeline", "forgetting")
    assert DiagnoseConfig().to_json()["only"] == list(section_names())
    in_file = ["generalization", "layers", "intruders", "timeline", "forgetting", "landscape", "similarity"]
    assert [section.name for section in _in_turn()] == in_file
    terminal = ["run", "G(W)", "intruders", "‖ΔW‖", "stable rank", "rise in radius", "top eigenvalue"]
    assert headings() == [*terminal, "base's own score"]
    assert [name for name, section in SECTIONS.items() if section.is_of_an_adapter] == [
        "layers",
        "intruders",
        "forgetting",
    ]


def test_an_adapter_has_no_run_no_rows_and_no_snapshots(tmp_path):
    inputs = AdapterInputs(tmp_path, "embedded", DiagnoseConfig())
    for part in (lambda: inputs.run, lambda: inputs.data, lambda: inputs.snapshot(8)):
        with pytest.raises(LopsidedError, match="an adapter does not say how it was trained; diagnose its run"):
            part()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"needs": OF_PREDICTIONS}, "expected compute, and no compare"),
        ({"needs": OF_PREDICTIONS, "compare": nothing}, "expected compute, and no compare"),
        ({"needs": OF_PREDICTIONS, "compute": nothing, "compare": nothing}, "expected compute, and no compare"),
        ({"needs": frozenset({Need.OTHER_RUNS}), "compute": nothing}, "expected compare, and no compute"),
    ],
)
def test_a_section_computes_or_compares(parts, expected):
    with pytest.raises(LopsidedError, match=f"section 'odd': {expected}"):
        Section(name="odd", about="nothing", **parts)


def test_a_name_belongs_to_one_section():
    with pytest.raises(LopsidedError, match="'layers' is registered with other parts"):
        register_section(Section(name="layers", about="nothing", needs=OF_PREDICTIONS, compute=nothing))
    before = list(SECTIONS.items())
    register_section(SECTIONS["layers"])
    assert list(SECTIONS.items()) == before


def test_the_documentation_lists_them_all():
    text = USE.read_text()
    block = text.split("<!-- sections: lopsided.diagnose.tables.documentation() -->\n")[1].split("\n<!-- end -->")[0]
    assert block == documentation()
