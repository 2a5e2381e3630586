"""Who belongs to a lab and where, while another file takes over."""

from actors.cast import Cast
from actors.spec import spec_of
from placement.state import Place
from placement.tiers import Tier

FILE = """
lab: near
nodes: {desk: {vram: 64MiB, ram: 64MiB}, attic: {vram: 64MiB, ram: 64MiB}}
bases: {small: {model: ./base, device: cpu, kv_cache: 8MiB, node: attic}}
roles: {}
"""


def cast_of(tmp_path, text):
    """Return the cast of a file."""
    root = str(tmp_path)
    return Cast(spec_of(text, file="cluster.yaml", root=root, home=root, env={}))


def test_an_engine_whose_base_has_left_the_file_is_still_known_to_run_where_it_told(tmp_path):
    """It runs on until the file is whole; one that told no place counts to the first node."""
    cast = cast_of(tmp_path, FILE)
    assert cast.where("engine:small") == "attic"
    cast.engine_places["gone"] = Place("attic", Tier.VRAM, "cpu")
    assert cast.where("engine:gone") == "attic"
    assert cast.where("engine:never") == "desk"
