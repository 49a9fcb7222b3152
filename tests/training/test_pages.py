"""The pages from the question to the answer: each script runs, and prints what its page shows."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "bias-gradients": "bias_gradients",
    "joint-filters": "filters",
    "user-functions": "user_functions",
    "trainable-bump": "trainable_bump",
}


def shown(page: str) -> list[str]:
    """Return the lines of a page's text block."""
    (block,) = re.findall(r"^```text\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    return block.splitlines()


@pytest.mark.parametrize("page", ["joint-filters", "user-functions", "trainable-bump"])
def test_script_of_a_page_prints_what_the_page_shows(page, capsys):
    """What stands in the page is what the script says today, line by line."""
    runpy.run_path(str(DOCS / "examples" / f"{PAGES[page]}.py"), run_name="__main__")
    assert shown(page) == capsys.readouterr().out.splitlines()


def test_s6_e_page_answers_the_question_and_its_script_shows_the_case_line_by_line(capsys):
    """The table of biases is what the audit finds today, and every line of it is explained in the page."""
    runpy.run_path(str(DOCS / "examples" / "bias_gradients.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert shown("bias-gradients") == lines
    text = (DOCS / "bias-gradients.md").read_text()
    explained = text.partition("```text")[2].partition("```")[2]
    biases = set(re.findall(r"[fg]_\d/bias", "\n".join(lines)))
    assert 6 == len(biases)
    assert biases == {bias for bias in biases if f"- `{bias}`" in explained or f"`{bias}`:" in explained}
    question = text.partition("*")[2].partition("*")[0]
    for words in ("squares a leaky ReLU", "gradients do not exist", "@tf.function", "gradient is 0", "In f all biases"):
        assert words in " ".join(question.split())


@pytest.mark.parametrize("page", PAGES)
def test_page_links_lead_to_files_that_exist(page):
    """A page names its script, and no link of it is broken."""
    links = re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{page}.md").read_text())
    assert f"examples/{PAGES[page]}.py" in links
    assert [] == [link for link in links if not (DOCS / link).exists()]


def test_every_script_beside_the_pages_has_a_page():
    """No script is left that nobody runs."""
    assert set(PAGES.values()) == {path.stem for path in (DOCS / "examples").glob("*.py")}
