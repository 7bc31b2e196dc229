"""docs/policy.md says of every field what Policy says.

`python tests/unit/test_policy_docs.py` writes the rows of the fields into the page again.
"""

import re
from pathlib import Path

import pytest

from kacore.policy import Policy
from kacore.policy.fields import CONNECTION, REQUEST, WORKER
from kacore.policy.readers import apache, nginx

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
RULES = {WORKER: "none", CONNECTION: "accept", REQUEST: "any"}
ROW = re.compile(r"^\| `(\w+)` \|.*$", re.MULTILINE)


def fields_section(text):
    """What stands before the section of the fields, the section, and what stands behind it."""
    before, heading, rest = text.partition("\n## The fields\n")
    section, next_heading, after = rest.partition("\n## ")
    return before + heading, section, next_heading + after


def row(what):
    """The line of the table for one field."""
    default = what.shown_default()
    unit = what.unit_of(what.make_default())
    unit = "" if unit in ("", "fraction") else f" {unit}"
    zero = f"; 0: {what.zero}" if what.zero else ""
    peers = {"Apache": what.apache, "nginx": what.nginx, "HAProxy": what.haproxy}
    known = "<br>".join(f"{server}: {name}" for server, name in peers.items() if name)
    cells = [f"`{what.name}`", default + unit, what.allowed() + zero, RULES[what.scope], what.doc, what.reason, known or "-"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_tables_have_every_field_in_order_and_say_what_policy_says(page):
    rows = list(ROW.finditer(fields_section(page)[1]))
    assert [match[1] for match in rows] == list(Policy.__fields__)
    for match in rows:
        assert match[0] == row(Policy.__fields__[match[1]])


@pytest.mark.parametrize(("reader", "heading"), [(apache, "Apache's words"), (nginx, "nginx's words")])
def test_every_directive_that_is_read_is_on_the_page(page, reader, heading):
    section = page.partition(f"## {heading}")[2].partition("\n## ")[0].lower()
    named = set(re.findall(r"`([a-z_]+)", section))
    assert set(reader.HANDLERS) <= named


if __name__ == "__main__":
    start, table, end = fields_section(PAGE.read_text(encoding="utf-8"))
    table = ROW.sub(lambda match: row(Policy.__fields__[match[1]]), table)
    PAGE.write_text(start + table + end, encoding="utf-8")
