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


def test_another_secret_is_a_change_that_shows_no_secret():
    """A new key of a search server is noticed, and neither key is in what is told."""
    shard = "rag: {{papers: {{location: network, api: http, url: 'http://x', api_key: {}}}}}"
    (change,) = entry_changes(lab(more=shard.format("first-key")), lab(more=shard.format("second-key")))
    assert change.kind == "shard"
    assert "key" not in f"{[field.before + field.after for field in change.fields]}"
