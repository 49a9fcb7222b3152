"""The table from claims to tests: complete and current."""

from pathlib import Path

from docs import criteria


def test_every_letter_of_every_system_has_a_test() -> None:
    """No claim is without a test, and no test claims a letter that is not there."""
    assert [] == criteria.untested(criteria.criteria(), criteria.tests(criteria.ROOT / "tests"))


def test_criteria_are_those_of_twenty_eight_systems() -> None:
    """The list has S1 to S28 in order, each with a title and letters from a on without a gap."""
    found = criteria.criteria()
    assert [f"S{number}" for number in range(1, 29)] == list(found)
    counts = [4, 9, 6, 5, 7, 5, 4, 5, 6, 6, 4, 3, 4, 4, 7, 5, 6, 5, 4, 6, 4, 4, 4, 5, 5, 4, 4, 6]
    assert [["title", *"abcdefghi"[:count]] for count in counts] == [list(claims) for claims in found.values()]


def test_page_of_criteria_is_the_one_that_would_be_written() -> None:
    """Whoever adds or renames a test for a letter writes the page again."""
    assert criteria.document() == criteria.PAGE.read_text()


def test_missing_and_unknown_letters_are_found_when_there_are_some(tmp_path: Path) -> None:
    """A letter whose test is gone and a test for a letter that nobody wrote are both named."""
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_one.py").write_text(
        "def test_s1_a_holds_here():\n    pass\n\n\ndef test_s1_c_holds_too():\n    pass\n"
    )
    wanted = {"S1": {"title": "one", "a": "it holds", "b": "it holds too"}}
    assert ["S1 (b)", "S1 (c)"] == criteria.untested(wanted, criteria.tests(folder))
    assert [("tests/test_one.py", "test_s1_a_holds_here")] == criteria.tests(folder)["S1", "a"]
