"""What there is to run: the notebooks, the parameters that each declares, the profiles."""
import ast
import difflib
import json
from pathlib import Path

from lib import DATA, NOTEBOOKS, reading, schedule
from lib.errors import UserError

PROFILES = DATA / "profiles"
TUNING = "06_tuning"
APART = ("10_compare",)  # made of finished runs, by a command of its own


def all_notebooks() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb") if p.stem not in APART)


def source(notebook: str) -> Path:
    """The file of a notebook."""
    return NOTEBOOKS / f"{notebook}.ipynb"


def find_notebook(asked: str) -> str:
    """`02`, `02_single_request` or a path to it -> `02_single_request`."""
    stem, known = Path(asked).name.removesuffix(".ipynb"), all_notebooks()
    matches = [n for n in known if n == stem or n.startswith(f"{stem}_") or n.split("_", 1)[1] == stem]
    if len(matches) != 1:
        raise UserError(f"there is no notebook {asked!r} (there: {', '.join(known)}){nearest(stem, known)}")
    return matches[0]


def declared_parameters(notebook: str) -> dict:
    """Parameter -> default value, from the cell tagged `parameters`."""
    cells = json.loads(source(notebook).read_bytes())["cells"]
    lines = ast.parse("".join(next((cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", ())), ""))).body
    return {line.target.id: ast.literal_eval(line.value) for line in lines if isinstance(line, ast.AnnAssign)}


def load_profile(profile: str) -> dict:
    """The parameters of data/profiles/PROFILE.yaml."""
    path = PROFILES / f"{profile}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    if profile not in known:
        raise UserError(f"there is no profile {profile!r} (there: {', '.join(known)}){nearest(profile, known)}")
    try:
        content = reading.yaml_file(path) or {}
    except reading.Unreadable as error:
        raise UserError(f"profile {profile}: {error}")
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"profile {profile}: a YAML mapping of parameters is needed, not {type(content).__name__}")
    schedule.check(profile, content.get("takes", {}))
    return content


def nearest(word: str, known) -> str:
    """What somebody may have meant, as the end of a message; "" where nothing is like it."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
