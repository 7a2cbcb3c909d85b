"""Import root of LHM Forge: `lhmforge.datasets`, `.pipelines`, `.lhm_model` and `.jobs` are folders of the checkout.

A top-level package called `datasets` would break Hugging Face `datasets`, so the four folders carry no
`__init__.py` and are reached only through this root. In a checkout they lie beside this file's folder; in a
wheel they lie inside it.
"""

from pathlib import Path

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "datasets" / "records.py").is_file():
    __path__.append(str(_checkout))
