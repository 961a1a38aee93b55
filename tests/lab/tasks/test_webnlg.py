import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks.webnlg import Entry, read_entries

TRIPLES = "<modifiedtripleset><mtriple>A_b | c | D, e</mtriple></modifiedtripleset>"
LEX = '<lex comment="good" lid="Id1">A b.</lex>'


def entry(attributes='category="Airport" eid="Id1" size="1"', inside=TRIPLES + LEX):
    return f"<entry {attributes}>{inside}</entry>"


def document(*entries):
    return f"<benchmark><entries>\n{''.join(entries)}</entries></benchmark>"


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("part", "entries", "texts", "good", "without"),
    [("train", 6940, 18102, 18025, 5), ("dev", 872, 2268, 2258, 1)],
)
def test_real_files_have_the_known_entries_and_texts(glue, part, entries, texts, good, without):
    found = read_entries(glue / "webnlg_2017" / part)
    assert len(found) == entries
    assert sum(len(entry.texts) for entry in found) == texts
    assert sum(len(entry.references) for entry in found) == good
    assert sum(not entry.references for entry in found) == without
    assert {entry.seen for entry in found} == {True}
    assert {len(entry.triples) for entry in found} == set(range(1, 8))


def test_an_entry_of_the_real_files(glue):
    folder = glue / "webnlg_2017" / "dev" / "3triples"
    first = read_entries(folder / "3triples_Airport_dev_challenge.xml")[0]
    assert (first.category, first.identifier) == ("Airport", "Id1")
    assert first.source == (
        "Abilene_Regional_Airport : cityServed : Abilene,_Texas | "
        "Abilene,_Texas : isPartOf : Taylor_County,_Texas | "
        "Abilene,_Texas : country : United_States"
    )
    assert first.references[2].startswith("The Abilene regional airport serves Abilene, Texas,")


def test_entries_with_comments_references_and_escapes(tmp_path):
    lexes = '<lex comment="toFix">x &amp; &lt;y&gt; &#233;</lex><lex>\n z<!-- no --> é </lex>'
    path = write(tmp_path / "a.xml", document(entry(inside=TRIPLES + lexes)))
    assert read_entries(path) == (
        Entry(
            "Airport",
            "Id1",
            (("A_b", "c", "D, e"),),
            ("x & <y> é", "z é"),
            ("z é",),
        ),
    )
    assert read_entries(path)[0].references == ("z é",)


@pytest.mark.parametrize(("category", "seen"), [("Food", True), ("Artist", False), ("New", False)])
def test_seen_are_the_ten_categories_of_training(tmp_path, category, seen):
    path = write(tmp_path / "a.xml", document(entry(f'category="{category}" eid="Id1"')))
    assert read_entries(path)[0].seen is seen


@pytest.mark.parametrize(
    ("identifiers", "order"),
    [
        (("Id10", "Id9", "Id1"), ["Id1", "Id9", "Id10"]),
        (("Id2", "Id1", "Id1"), ["Id2", "Id1", "Id1"]),
        (("b", "Id1", "a"), ["b", "Id1", "a"]),
    ],
)
def test_entries_come_in_the_order_of_their_numbers_if_they_have_any(tmp_path, identifiers, order):
    entries = (entry(f'category="Food" eid="{name}"') for name in identifiers)
    path = write(tmp_path / "a.xml", document(*entries))
    assert [found.identifier for found in read_entries(path)] == order


def test_folder_is_read_in_the_order_of_its_paths(tmp_path):
    for name in ("b/1.xml", "a/2.xml", "a/1.xml"):
        write(tmp_path / name, document(entry(f'category="Food" eid="{name}"')))
    write(tmp_path / "a/readme.txt", "no XML")
    assert [e.identifier for e in read_entries(tmp_path)] == ["a/1.xml", "a/2.xml", "b/1.xml"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_declared_encodings_are_followed(tmp_path, encoding):
    name = encoding.removesuffix("-sig")
    content = f'<?xml version="1.0" encoding="{name}"?>{document(entry())}'.replace("A b.", "é")
    path = write(tmp_path / "a.xml", content.encode(encoding))
    assert read_entries(path)[0].references == ("é",)


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<benchmark><entry>&b;</entry></benchmark>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><benchmark>&a;</benchmark>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.xml: must hold text, got an empty file; check the path"),
        ("no XML", "a.xml, line 1: must be well-formed XML (syntax error); fix the file"),
        ("<a>\n<b>\n</a>", "a.xml, line 3: must be well-formed XML (mismatched tag); fix the"),
        ("<a>\n", "a.xml, line 2: must be well-formed XML (no element found); fix the file"),
        ("<a>&nbsp;</a>", "a.xml, line 1: must be well-formed XML (undefined entity); fix"),
        (b"<a>\ncaf\xe9</a>", "a.xml, line 2: must be UTF-8, got byte 0xe9; save the file as"),
        (b'<?xml version="1.0" encoding="latin-9000"?><a/>', "a.xml, line 1: must"),
        (BOMB, "a.xml, line 1: must have no <!DOCTYPE>, since entities are not read; delete it"),
        ("\n" + OUTSIDE, "a.xml, line 2: must have no <!DOCTYPE>, since entities are not read"),
        ("<a/>", "a.xml: must hold <entry> elements, got none in <a>; check the path"),
        (document(entry('eid="Id1"')), "a.xml, line 2: <entry> must have the attribute 'category'"),
        (document(entry('category="Food"')), "a.xml, line 2: <entry> must have the attribute 'eid"),
        (document(entry(inside=LEX)), "a.xml, line 2: <entry> must have a <modifiedtripleset>"),
        (document(entry(inside=TRIPLES)), "a.xml, line 2: <entry> must have <lex> elements with"),
        (document(entry(inside=TRIPLES + "<lex> </lex>")), "a.xml, line 2: <entry> must have <l"),
        (
            document(entry().replace(" | c | ", " | ")),
            "a.xml, line 2: <mtriple> must be 'subject | property | object', got 'A_b | D, e';",
        ),
        (
            document(entry('category="Food" eid="Id1" size="2"')),
            "a.xml, line 2: <entry> must have as many <mtriple> as its size '2', got 1; correct",
        ),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_file_and_line(tmp_path, content, message):
    path = write(tmp_path / "a.xml", content)
    with pytest.raises(ConfigError) as caught:
        read_entries(path)
    assert caught.value.faults[0].startswith(f"{tmp_path}/{message}")


def test_faults_of_several_files_come_together(tmp_path):
    write(tmp_path / "a.xml", "<a>")
    write(tmp_path / "b.xml", "<b/>")
    write(tmp_path / "c.xml", document(entry()))
    with pytest.raises(ConfigError) as caught:
        read_entries(tmp_path)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        f"{tmp_path / 'a.xml'}, line 1",
        f"{tmp_path / 'b.xml'}",
    ]


def test_folder_without_files_and_missing_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"must hold \.xml files, got none; give the folder"):
        read_entries(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.xml: does not exist; check the path"):
        read_entries(tmp_path / "a.xml")
