"""What each command asks of the lab, and what it writes: data to stdout, progress to stderr."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from actors.cli.table import listing_tables
from actors.listing import COLUMNS, Listing, Member
from actors.progress import Progress
from placement.errors import WorldError


def table(text: str) -> list[list[str]]:
    """The cells of a table's lines, header first; cells are two spaces apart."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.strip()
    ]


def test_ps_has_a_row_for_each_thing(tierce):
    """`ps` shows version, tier, node, bytes, leases, last use, idle-until, activations and hits of each."""
    header, philosopher, coder = table(tierce("ps").out)
    assert header == list(COLUMNS)
    assert philosopher[:5] == ["philosopher", "3fa9c1d2b0aa", "VRAM(cpu)", "local", "1.7 MiB"]
    assert philosopher[5:] == ["1", "2s ago", "-", "1", "7", "VRAM(cpu)"]
    assert coder[7] == "pinned"


def test_ps_says_when_an_item_unloads_and_what_failed(tierce, lab):
    """An idle item shows its time left; one that failed shows so as its tier, and why below."""
    lab.things = (replace(lab.things[1], pinned=False, phase="failed", problem="no weights [ADP002]"),)
    _, row, (why,) = table(tierce("ps").out)
    assert (row[2], row[7]) == ("failed", "10min")
    assert why == "role coder: no weights [ADP002]"


def test_ps_wide_adds_copies_actors_and_room(tierce):
    """--wide says where every copy is, what each actor's process takes, and how full each place is."""
    out = tierce("ps", "--wide").out
    assert ["philosopher", "local:SSD", "ready"] in table(out)
    assert ["coordinator", "local", "4242", "96.0 MiB", "running"] in table(out)
    assert ["role:coder", "local", "-", "-", "silent"] in table(out)
    assert "96.0 MiB / 1.7 MiB / 158.3 MiB of 256.0 MiB" in out
    assert "small 1/8" in out
    assert "█████████▓░░░░░░░░░░░░░░" in out


def test_ps_names_an_engine_that_does_not_move():
    """Without --wide too: who is stalled, where, and for how long."""
    doing = "has work and has not moved for 34s; 2 answer, 1 read, 2 wait"
    stalled = Member("engine:small", "local", 77, 1 << 20, "stalled", doing)
    console = Console(width=200, file=StringIO())
    console.print(listing_tables(Listing("athens", 1, (), (stalled,), ()), wide=False))
    assert f"engine:small on local {doing}" in console.file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "schema", "key"),
    [
        (["ps"], "tierce.ps/v1", "things"),
        (["up"], "tierce.ps/v1", "spaces"),
        (["down"], "tierce.down/v1", "lab"),
        (["ask", "philosopher", "why?"], "tierce.ask/v1", "text"),
        (["move", "coder", "--to", "ram"], "tierce.move/v1", "item"),
        (["warm", "coder"], "tierce.warm/v1", "item"),
        (["unload", "coder"], "tierce.unload/v1", "item"),
        (["add-role", "critic", "--lora-path", "x", "--location", "RAM"], "tierce.add-role/v1", "item"),
        (["update-role", "coder", "--pin"], "tierce.update-role/v1", "item"),
        (["update", "coder"], "tierce.update/v1", "before"),
        (["remove-role", "coder"], "tierce.remove-role/v1", "item"),
        (["export"], "tierce.export/v1", "text"),
        (["roundtable", "why?", "--role", "coder"], "tierce.roundtable/v1", "turns"),
        (["pin", "coder"], "tierce.pin/v1", "item"),
        (["unpin", "coder"], "tierce.unpin/v1", "item"),
        (["story", "coder"], "tierce.story/v1", "lines"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_one_object_with_a_schema(tierce, arguments, schema, key):
    """With --json, stdout holds one JSON object that names its schema."""
    said = json.loads(tierce(*arguments, "--json").out)
    assert said["schema"] == schema
    assert key in said


def test_ps_json_has_the_bytes(tierce):
    """The JSON form has numbers where the table has text."""
    said = json.loads(tierce("ps", "--json").out)
    assert said["things"][0]["nbytes"] == 1_800_000
    assert said["members"][0]["rss"] == 96 << 20


def test_ask_streams_text_then_sources(tierce, lab):
    """Stdout is the answer and, after an empty line, its sources; what it cost stands on stderr."""
    done = tierce("ask", "philosopher", "what", "is", "justice?", "--temperature", "0", "--seed", "7")
    assert done.out == (
        "Justice is doing one's own.\n\n\n[1] plato/republic-04.md 0.83 chars 120-560 Book IV\n"
    )
    assert "left out: plato [2]: 80 tokens" in done.err
    assert "philosopher@3fa9c1d2b0aa" in done.err
    assert "adapter came from SSD: 1.7 MiB in 10ms, 180.0 MB/s, ready after 30ms" in done.err
    assert "7 tokens in 500ms" in done.err
    options = {"temperature": 0.0, "max_tokens": None, "seed": 7}
    assert lab.orders == [("ask", "philosopher", "what is justice?", options)]


def test_ask_passes_on_how_to_draw(tierce, lab):
    """What is said of the draw reaches the role, and what is not said does not."""
    spoken = ["--top-p", "0.5", "--min-p", "0.1", "--repetition-penalty", "1.2", "--stop", "A:"]
    tierce("ask", "philosopher", "why?", *spoken)
    said = {"top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2, "stop": ("A:",)}
    options = {"temperature": None, "max_tokens": None, "seed": None} | said
    assert lab.orders == [("ask", "philosopher", "why?", options)]


def test_ask_shows_each_piece_when_it_comes(tierce, lab, capsys):
    """A piece of the answer is written before the next one is waited for."""
    seen = []
    lab.at_piece = lambda: seen.append(capsys.readouterr().out)
    tierce("ask", "philosopher", "what?")
    assert seen == ["Justice is ", "doing one's own.\n"]


def test_a_models_text_cannot_steer_the_terminal(tierce, lab):
    """Control characters in an answer are shown as a mark, not performed."""
    from actors.answer import Piece

    found, *_, end = lab.script
    lab.script = (found, Piece("a\x1b[2Jb\x07 [bold]c[/bold]"), end)
    out = tierce("ask", "philosopher", "what?").out
    assert out.startswith("a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER} [bold]c[/bold]\n")


def test_an_answer_is_written_character_for_character(tierce, lab):
    """Tabs and trailing blanks of code come out of a pipe as the model wrote them."""
    from actors.answer import Piece

    found, *_, end = lab.script
    lab.script = (found, Piece("def f():\n"), Piece("\treturn 1  \n"), end)
    assert tierce("ask", "coder", "what?").out.startswith("def f():\n\treturn 1  \n")


def test_an_error_is_an_object_too_under_json(tierce, lab):
    """A script that reads stdout as JSON gets code, message and hint of what went wrong."""
    lab.error = WorldError("TRC013", "coder is not at desk:RAM after 600 s", "see `tierce story coder`")
    done = tierce("move", "coder", "--to", "RAM", "--json")
    assert json.loads(done.out) == {
        "schema": "tierce.error/v1",
        "code": "TRC013",
        "message": "coder is not at desk:RAM after 600 s",
        "hint": "see `tierce story coder`",
        "problems": [],
    }
    assert done.code == 5


def test_up_tells_each_step_with_its_pace(tierce, labs):
    """Each finished step is a line on stderr: bytes, seconds and MB/s where bytes moved."""
    labs.steps = (
        Progress("base small on local:VRAM(cpu)", 12_000_000, 0.5),
        Progress("shard plato: 10 documents", 0, 1.0),
        Progress("role coder", problem="no weights [ADP002]"),
    )
    done = tierce("up", "lab.yaml", "--dashboard")
    base, plato, coder, up = done.err.splitlines()
    assert base == "  ✓  11.4 MiB   500ms    24.0 MB/s  base small on local:VRAM(cpu)"
    assert plato == "  ✓                1s               shard plato: 10 documents"
    assert coder == "  ✗ role coder: no weights [ADP002]"
    assert up.startswith("lab athens is up after ")
    assert labs.asked == [("up", "lab.yaml", None, True, None)]
    assert table(done.out)[0] == list(COLUMNS)


def test_up_takes_cluster_yaml_by_default(tierce, labs):
    """Without a file, the one in the current directory is meant."""
    tierce("up", "--address", "10.0.0.1:6379")
    assert labs.asked == [("up", "cluster.yaml", "10.0.0.1:6379", False, None)]


def test_down_says_what_it_stopped(tierce, labs):
    """`down` names the lab, the actors and the Ray that it ended."""
    done = tierce("down", "--lab", "athens")
    assert done.out == "lab athens is down: 9 actors ended; Ray 4200 stopped too\n"
    assert labs.asked == [("down", "athens", None, False)]


def test_down_forgets_when_it_is_told_to(tierce, labs):
    """With --forget, what was said on the line and in code goes too."""
    tierce("down", "--forget")
    assert labs.asked == [("down", None, None, True)]


def test_move_prints_the_row_and_what_it_took(tierce, lab):
    """`move` understands any letter case and `disk`, and shows the item's row after it."""
    done = tierce("move", "coder", "--to", "disk", "--node", "attic")
    assert lab.orders == [("move", "coder", "SSD", "attic")]
    assert table(done.out)[1][:2] == ["coder", "0b1c2d3e4f50"]
    assert "coder is at home in local:RAM: 1.7 MiB copied" in done.err


def test_a_move_to_where_a_copy_was_tells_no_pace(tierce):
    """Where no byte had to move, `move` says so in place of a pace."""
    said = tierce("move", "philosopher", "--to", "VRAM").err
    assert said.startswith("philosopher is at home in local:VRAM(cpu) after ")
    assert said.endswith(": it was there, and left the other places\n")


@pytest.mark.parametrize(
    ("home", "tier"),
    [("local:RAM", "RAM"), ("attic:VRAM(cuda:1)", "VRAM"), ("network:network", "network")],
)
def test_a_move_to_a_machine_keeps_the_tier(tierce, lab, home, tier):
    """With --node alone, an item goes to the same tier of that machine; its own name is understood, too."""
    lab.things = (lab.things[0], replace(lab.things[1], home=home))
    assert tierce("move", "coder", "--node", "cellar").code == 0
    assert lab.orders == [("move", "coder", tier, "cellar")]


def test_a_move_of_nobody_to_a_machine_names_who_there_is(tierce, lab):
    """An unknown item has no tier to keep: an error that names the items, and nothing is ordered."""
    done = tierce("move", "smith", "--node", "attic")
    assert done.code == 2
    assert "has no role or shard 'smith'" in done.err
    assert "it has: philosopher, coder" in done.err
    assert lab.orders == []


def test_warm_orders_and_does_not_wait(tierce, lab):
    """`warm` passes on how long its order holds, and says how soon it is met and who leaves for it."""
    done = tierce("warm", "coder", "--within", "500ms")
    assert lab.orders == [("warm", "coder", 0.5)]
    assert "coder: ready in about 200ms, in place of critic; the order stands for 500ms" in done.err
    assert table(done.out)[1][0] == "coder"


def test_warm_says_what_is_up_already(tierce):
    """Of an item that is in VRAM, `warm` says just that."""
    assert tierce("warm", "philosopher").err == "philosopher is in VRAM(cpu) already\n"


def test_unload_shows_the_row(tierce, lab):
    """`unload` is an order of its own, and shows the item's row after it."""
    assert table(tierce("unload", "coder").out)[1][0] == "coder"
    assert lab.orders == [("unload", "coder")]


def test_story_is_time_and_text(tierce):
    """Each line of a story begins with its time to the millisecond."""
    (line,) = tierce("story", "coder").out.splitlines()
    assert line.endswith(":00.250  copy to local:VRAM(cpu): asked for by philosopher")


def test_a_pipe_gets_no_colours(tierce):
    """What is not a terminal gets plain text."""
    done = tierce("ps", "--wide")
    assert "\x1b" not in done.out + done.err


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    """NO_COLOR turns colours off even on a terminal."""
    import io

    from actors.cli.screen import Screen

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written = {}
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        monkeypatch.setenv("TERM", "xterm-256color")
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        Screen().tell("hot", "red")
        written[no_color] = terminal.getvalue()
    assert written == {"": "\x1b[31mhot\x1b[0m\n", "1": "hot\n"}
