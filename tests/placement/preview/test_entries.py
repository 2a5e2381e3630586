"""What two files say differently, in the words of the files."""

from placement.config import load
from placement.preview.entries import Field, entry_changes

FILE = """
lab: athens
nodes: {{desk: {{ram: 64MiB, vram: 1GiB}}}}
bases: {{small: {{model: ./base}}}}
roles:
  coder: {{lora_path: ./coder, location: {tier}, unload: {{idle: {idle}}}}}
{more}
"""


def lab(tier="RAM", idle="10min", more=""):
    """The lab of a small file."""
    return load(FILE.format(tier=tier, idle=idle, more=more), {})


def test_equal_files_differ_in_nothing():
    """The same lab told twice has no change; nor is a default that is written out one."""
    assert entry_changes(lab(), lab(more="policy: {vram_high: 92%}")) == ()


def test_a_changed_field_is_shown_by_its_dotted_name_before_and_after():
    """Values stand as a person reads them: tiers, seconds."""
    (change,) = entry_changes(lab(), lab("SSD", "1h"))
    assert (change.sign, change.kind, change.name) == ("~", "role", "coder")
    assert change.fields == (Field("location", "RAM", "SSD"), Field("unload.idle", "", "1h"))
    assert change.touches("unload")
    assert not change.touches("lora_path")


def test_new_entries_and_gone_ones_are_told_apart():
    """A role that only the new file has is added, one that only the old one has is removed."""
    more = "  critic: {lora_path: ./critic, location: VRAM}"
    (added,) = entry_changes(lab(), lab(more=more))
    assert (added.sign, added.name) == ("+", "critic")
    assert Field("location", "", "VRAM") in added.fields
    (removed,) = entry_changes(lab(more=more), lab())
    assert (removed.sign, removed.name) == ("-", "critic")


def test_a_lab_that_does_not_run_is_all_new():
    """Without a lab before, each machine, base and role of the file is added."""
    assert [(change.sign, change.kind) for change in entry_changes(None, lab())] == [
        ("+", "node"),
        ("+", "base"),
        ("+", "role"),
    ]


SERVER = "rag: {{papers: {{location: network, url: '{url}', collection: {shelf}, api_key: {key}}}}}"


def server(key="first-key", shelf="papers", url="http://x"):
    """The lab with a shard on a server."""
    return lab(more=SERVER.format(key=key, shelf=shelf, url=url))


def test_another_secret_is_a_change_that_shows_no_secret():
    """A new key of a search server is noticed, and neither key is in what is told."""
    (change,) = entry_changes(server(), server("second-key"))
    assert change.kind == "shard"
    assert change.fields == (Field("api_key", "as it was", "another"),)


def test_another_secret_is_noticed_beside_other_changes():
    """A key that changed together with another field is a change of its own: the shard needs it."""
    (change,) = entry_changes(server(), server("second-key", "essays"))
    assert change.fields == (
        Field("collection", "papers", "essays"),
        Field("api_key", "as it was", "another"),
    )
    assert change.touches("api_key")


def test_a_secret_in_an_address_is_not_shown():
    """What looks like a key is masked wherever it stands, and noticed when it is another."""
    first, second = "https://h/find?key=f1rst-s3cret", "https://h/find?key=sec0nd-s3cret"
    (added,) = [change for change in entry_changes(None, server(url=first)) if change.kind == "shard"]
    assert Field("url", "", f"https://h/find?key={'*' * 12}") in added.fields
    (change,) = entry_changes(server(url=first), server(url=second))
    assert "s3cret" not in str(change)
    (rotated,) = entry_changes(server(url=first), server(url=first.replace("f1rst", "f2rst")))
    assert rotated.fields == (Field("url", "as it was", "another"),)


def test_values_that_round_alike_are_told_exactly():
    """A size or a time that changed by less than people write is a change, and its numbers say so."""
    before = lab(idle="15min")
    longer = lab(idle="902s")
    assert entry_changes(before, longer)[0].fields == (Field("unload.idle", "900s", "902s"),)
    text = FILE.format(tier="RAM", idle="15min", more="")
    (node,) = entry_changes(
        load(text.replace("64MiB", "40GiB"), {}), load(text.replace("64MiB", "40.04GiB"), {})
    )
    assert node.fields == (Field("ram", "42949672960 B", "42992622632 B"),)
