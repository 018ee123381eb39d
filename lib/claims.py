"""Somebody's published claims as data."""
import pandas as pd
import yaml

from lib import DATA


def article() -> pd.DataFrame:
    """The article's claims that a notebook can stand beside its own figures, one row each; index: metric."""
    rows = yaml.safe_load((DATA / "claims" / "article.yaml").read_text(encoding="utf-8"))
    return pd.DataFrame(rows).set_index("metric")


def pictures() -> pd.DataFrame:
    """What the article claims of requests with a picture, one row each; index: metric."""
    rows = yaml.safe_load((DATA / "claims" / "article_pictures.yaml").read_text(encoding="utf-8"))
    return pd.DataFrame(rows).set_index("metric")
