"""Filters: the three renderings choose what a naive evaluation chooses; what is no filter is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clearsight.errors import UsageError
from clearsight.store import Where, parse_where
from clearsight.store.columns import fields_of
from clearsight.store.where import DEEPEST, MOST_CONDITIONS
from clearsight.store.where_render import own_name, stored_name
from small.filters import METADATA, POOLS, evaluate, filters, metadata_rows, written

ROWS = 60
TABLE = metadata_rows(ROWS).append_column("id", pa.array([f"row {i}" for i in range(ROWS)]))
TABLE = TABLE.append_column("text", pa.array(["Bern", None, "100%"] * (ROWS // 3)))
FIELDS = fields_of({name: TABLE.schema.field(name).type for name in TABLE.column_names if "meta_" in name})
OWN = {("meta_text" if name == "text" else name): f"meta_{name}" for name in METADATA} | {
    "id": "id",
    "text": "text",
}
PLAIN = [{name: row[column] for name, column in OWN.items()} for row in TABLE.to_pylist()]
DRAWN = filters(
    {name: (FIELDS[name], POOLS[FIELDS[name]] if name != "id" else ["row 3", "row 40", "x"]) for name in OWN}
)


def expected(node):
    return [row["id"] for row in PLAIN if evaluate(node, row) is True]


@settings(max_examples=120, deadline=None)
@given(DRAWN)
def test_arrow_chooses_what_a_naive_evaluation_chooses(node):
    where = parse_where(written(node), FIELDS)
    table = TABLE.select(sorted({"id", *where.columns}))
    assert table.filter(where.arrow()).column("id").to_pylist() == expected(node)


@pytest.fixture(scope="module")
def lance_table(tmp_path_factory):
    import lance

    named = TABLE.rename_columns([stored_name(name) for name in TABLE.column_names])
    return lance.write_dataset(named, str(tmp_path_factory.mktemp("where") / "t.lance"))


@settings(max_examples=80, deadline=None)
@given(node=DRAWN)
@example(("not", ("and", [("in", "Year", [-3]), ("in", "Year", [0])])))  # Lance's optimiser lost the nulls
@example(("or", [("not", ("in", "Year", [-3])), ("not", ("in", "Year", [0]))]))
@example(("not", ("and", [("cmp", "Year", "=", -3), ("cmp", "Year", "=", 0)])))
def test_lance_chooses_what_a_naive_evaluation_chooses(lance_table, node):
    where = parse_where(written(node), FIELDS)
    found = lance_table.to_table(columns=["id"], filter=where.lance())
    assert found.column("id").to_pylist() == expected(node)


def test_as_deep_and_as_long_as_is_allowed(lance_table):
    deep = "year = 1"
    for level in range(DEEPEST - 1):
        deep = f"not ({deep})" if level % 2 else f"({deep}) or year is null"
    long = " or ".join(["year = 1"] * MOST_CONDITIONS)
    for text in (deep, long, f"year in ({', '.join(map(str, range(600)))})"):
        where = parse_where(text, FIELDS)
        found = lance_table.to_table(columns=["id"], filter=where.lance())
        assert found.column("id").to_pylist() == TABLE.filter(where.arrow()).column("id").to_pylist()
    with pytest.raises(UsageError, match="nested too deeply"):
        parse_where(f"not ({deep})", FIELDS)
    with pytest.raises(UsageError, match=f"{MOST_CONDITIONS + 1} conditions"):
        parse_where(f"{long} or year = 1", FIELDS)


WORDS = [
    *("year", '"shot at"', "nobody", "'a'", "'", '"', "(", ")", "and", "or", "not", "in", "between", "like"),
    *(
        "is",
        "null",
        "true",
        "1",
        "-",
        "2.5",
        "1e999",
        "=",
        "<",
        "<>",
        ",",
        ";",
        "--",
        "/*",
        "*/",
        "select",
        "from",
    ),
    *(
        "case",
        "when",
        "then",
        "end",
        "cast",
        "as",
        "date",
        "::",
        "[",
        "]",
        "{",
        "}",
        ".",
        "*",
        "lower(",
        "exists",
    ),
    *(
        "'2020-01-01'",
        "$1",
        "?",
        ":a",
        "@",
        "\\",
        "`",
        "interval",
        "any",
        "escape",
        "0x1F",
        "e'",
        "n'",
        "年",
        "\0",
    ),
]


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)))
def test_no_text_gives_anything_but_a_filter_or_a_usage_error(text):
    try:
        where = parse_where(text, FIELDS)
    except UsageError:
        return
    assert isinstance(where, Where)
    assert where.lance()
    TABLE.slice(0, 1).filter(where.arrow())
    sql, parameters = where.postgres()
    assert sql.count("%s") == len(parameters)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1900 + "year=1",
        "not " * 900 + "year",
        "year=" + "-" * 1900 + "1",
        "case when " * 300,
        "a" * 4001,
    ],
)
def test_text_without_end_is_refused(text):
    with pytest.raises(UsageError):
        parse_where(text, FIELDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The filter is empty"),
        ("yaer > 3", "There is no field 'yaer'. [character 1: yaer > 3] Did you mean year"),
        ('year > 2 and place = "Bern"', "no field 'place'"),
        ('text = "Bern"', "in 'single quotes'"),
        ("lower(text) = 'a'", "The filter calls a function. [character 1: lower(text)"),
        ("year = 1 and year in (select 1)", "'in' needs a list of values. [character 14: "),
        ("exists (select 1)", "The filter asks a query of its own"),
        ("year = 'x'", "The field 'year' takes a number"),
        ("text = 3", "The field 'text' takes text in 'single quotes'"),
        ("date = '2020-13-01'", "takes a date such as '2024-05-01'"),
        ("date = '2020-01-01 10:00'", "without a time of day"),
        ("\"shot at\" = '2020-01-01T10:00+01:00'", "has no time zone"),
        ('"seen\\" > true', "takes true or false"),
        ("year = null", "Nothing equals null. [character 1: year = null] Ask: is null"),
        ("year in (1, null)", "Nothing equals null"),
        ("year = order", "compares a field with a name. [character 8: order]"),
        ("year + 1 = 3", "This is no condition"),
        ("1 = 1", "This is no condition"),
        ("true", "This is no condition"),
        ("year like 'a%'", "'like' compares a field of text"),
        ("text like 'a\\'", "ends in a backslash"),
        ("text like 'a' escape '!'", "This is no condition"),
        ("text ilike 'a'", "This is no condition"),
        ("year is 5", "'is' asks for null, true or false"),
        ("year between symmetric 2 and 1", "'between symmetric'"),
        ("year = 1; drop table items", "cannot be understood"),
        ("year = 1 -- and more", "holds a comment"),
        ("text = 'a", "cannot be understood"),
        ("year = 9223372036854775808", "64 bits"),
        ("größe > 1e999", "beyond every number"),
        ("größe > 1e309", "64 bits"),
        ("text = 'a\0b'", "NUL"),
        ("YEAR = 1", "Did you mean"),
        ("tags = 'a'", "ask whether it is null"),
    ],
)
def test_what_is_no_filter_is_said_with_its_place(text, said):
    with pytest.raises(UsageError) as error:
        parse_where(text, {**FIELDS, "tags": pa.list_(pa.string())})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("year > 1 and yaer > 3", ("year > 1 and yaer > 3", "             ^^^^")),
        ("year = 1 and 写 = order", ("year = 1 and 写 = order", "             ^^")),  # two columns wide
        ("写真 = year and text = 1", ("写真 = year and text = 1", "^^^^")),
        ("year = 1; drop table items", ("year = 1; drop table items", "          ^^^^")),
        ("year >", ("year >", "     ^")),
        ("text = 'a", ("text = 'a", "         ^")),
        ("yaer\n> 3\tand year", ("yaer > 3 and year", "^^^^")),
        (
            f"text = '{'a' * 50}' and {'x' * 70}",
            (f"…{'a' * 26}' and {'x' * 32}…", f"{' ' * 33}{'^' * 32}"),
        ),
    ],
)
def test_the_place_is_marked_under_the_text(text, lines):
    with pytest.raises(UsageError) as error:
        parse_where(text, FIELDS)
    assert error.value.shown.split("\n") == [*lines]
    assert "\n" not in (error.value.where or "")


def test_names_are_found_without_their_case_where_that_is_clear():
    fields = {"Place": pa.string(), "exif.year": pa.int64()}
    for text in ("place = 'Bern'", "PLACE = 'Bern'", "'Bern' = Place"):
        assert parse_where(text, fields).columns == {"meta_Place"}
    assert parse_where("exif.year between 1 and 2", fields).columns == {"meta_exif.year"}
    with pytest.raises(UsageError):
        parse_where("\"place\" = 'Bern'", fields)


@given(st.text())
def test_stored_names_are_undone(name):
    stored = stored_name(name)
    assert own_name(stored) == name
    assert not set(stored) & set(".`")
