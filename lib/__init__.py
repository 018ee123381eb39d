"""The workbook's library: measuring a vLLM server and judging what was measured.

The notebooks are where the argument is followed; this package is what they call.
"""
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUTS = ROOT / "outputs"
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
