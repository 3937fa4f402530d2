"""Tables that scripts write into pages."""

import pytest

from experiments import pages
from spatial.errors import UserError

PAGE = "before\n<!-- table: a -->\nold\n<!-- end -->\nbetween\n<!-- table: b-c -->\n<!-- end -->\nafter\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(PAGE)
    return path


def test_blocks_are_what_stands_between_the_marks(page):
    assert pages.blocks(page) == {"a": "old", "b-c": ""}


def test_tables_are_put_between_their_marks(page):
    tables = {"a": "| x |\n| - |\n\n`mix`: \\1 ±", "b-c": "new", "elsewhere": "not here"}
    for _ in range(2):  # a second time changes nothing
        pages.insert(page, tables)
        assert page.read_text() == (
            "before\n<!-- table: a -->\n\n| x |\n| - |\n\n`mix`: \\1 ±\n\n<!-- end -->\nbetween\n"
            "<!-- table: b-c -->\n\nnew\n\n<!-- end -->\nafter\n"
        )
    assert pages.blocks(page) == {name: tables[name] for name in ("a", "b-c")}


def test_other_blocks_stay_as_they_are(page):
    pages.insert(page, {"b-c": "new"})
    assert page.read_text() == PAGE.replace("b-c -->\n", "b-c -->\n\nnew\n\n")


@pytest.mark.parametrize(
    "text", [PAGE, "<!-- table: b -->\n", "<!-- table: b --> x <!-- end -->", "", f"<!-- table: b -->\nopen\n{PAGE}"]
)
def test_a_page_without_the_marks_is_refused_and_left(page, text):
    page.write_text(text)
    with pytest.raises(UserError, match=r"README.md: has no mark <!-- table: b -->, or no end of it"):
        pages.insert(page, {"b": "new"})
    assert page.read_text() == text
