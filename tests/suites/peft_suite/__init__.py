"""PEFT's own tests, run over Lopsided's configurations: `make peft-suite`.

`fetch` brings PEFT's test files, `models` builds what their hub names stand for, `rows` puts our configurations into
their parameter lists, and `plugin` runs them and holds every failure against `reasons`, of which `counts.json` keeps
the numbers. Nothing of PEFT is committed, and no file of it is changed.
"""
