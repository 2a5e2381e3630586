"""Who belongs to a lab, on which node, with which folders: by its file, by order, by the nodes there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UnknownName
from actors.intake import Origin
from actors.sources import resolve
from placement.config.engines import Engine, engines
from placement.errors import WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.engine import Anatomy
    from actors.spec import LabSpec
    from placement.config import Lab
    from placement.config.schema import Base
    from placement.config.schema import Role as RoleConfig
    from placement.config.schema import Shard as ShardConfig
    from placement.state import Place


def ram_folder(lab: str, home: Path) -> Path:
    """Return where the indexes of a lab's shards lie in the RAM of a node; nothing in it outlives the lab.

    Two homes may hold labs of one name. Every index can be built again from its log.
    """
    own = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path(f"/dev/shm/tierce-{lab}-{own}")  # noqa: S108  (the RAM tier of indexes)


class Cast:
    """The parts of a lab as its file gives them; `follow` gives it another spec of the lab."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.root = Path(spec.root)
        self.home = Path(spec.home)
        self.selectors: dict[str, dict[str, str]] = {}
        #: roles whose actor was ordered to another node than the file says
        self.seats: dict[str, str] = {}
        #: the VRAM place of each engine, as it told when it had loaded: a reborn one does not know it
        self.engine_places: dict[str, Place] = {}
        #: what the engines told of each base, for nodes that lack its files
        self.anatomies: dict[str, Anatomy] = {}
        #: the nodes that Ray showed when it was last looked
        self.here: tuple[str, ...] = ()

    @property
    def lab(self) -> Lab:
        return self.spec.lab

    def follow(self, spec: LabSpec) -> None:
        """Take another spec of the same lab for what is hired from now on."""
        self.spec = spec

    @property
    def fleet(self) -> dict[str, Engine]:
        """The engines of the file, by name."""
        return engines(self.lab)

    def fleet_of(self, base: str) -> tuple[str, ...]:
        """Return the names of a base's engines."""
        return tuple(name for name, engine in self.fleet.items() if engine.base.name == base)

    def engines_at(self, base: str) -> tuple[Place, ...]:
        """Return the VRAM places of a base's engines, of those that have told theirs."""
        return tuple(self.engine_places[name] for name in self.fleet_of(base) if name in self.engine_places)

    def engine_in(self, base: str, place: Place) -> str:
        """Return the name of a base's engine at a place. Raises WorldError TRC031 if none runs there."""
        for name in self.fleet_of(base):
            if self.engine_places.get(name) == place:
                return name
        raise WorldError("TRC031", f"no engine of {base} runs at {place}", "see `tierce ps --wide`")

    @property
    def first_node(self) -> str:
        return next(iter(self.lab.nodes))

    def path(self, text: str) -> str:
        """Return the absolute path of what the file calls `text`, or a hub id or URL as it is."""
        return text if "://" in text else resolve(self.root, text)

    def node_of(self, name: str | None) -> str:
        """Return the node that a role, base or shard names, or the lab's first one."""
        node = name or self.first_node
        if node not in self.lab.nodes:
            raise UnknownName(
                "CFG030", f"no node {node!r} in this lab", f"nodes: {', '.join(self.lab.nodes)}"
            )
        return node

    def base_of(self, role: RoleConfig) -> tuple[str, Base]:
        """Return (name, base) of a role; the only base where the role names none."""
        name = role.base or next(iter(self.lab.bases))
        return name, self.lab.bases[name]

    def role_node(self, name: str) -> str:
        """Return the node of a role's actor: by order, by the file, or that of its base."""
        role = self.lab.roles[name]
        return self.seats.get(name) or self.node_of(role.node or self.fleet[self.base_of(role)[0]].node)

    def shard_node(self, name: str) -> str:
        """Return the node of a shard's actor; that of a network shard is the first one that Ray shows."""
        shard = self.lab.rag[name]
        if shard.location is Tier.NETWORK and shard.node is None:
            return next(iter(self.selectors), self.first_node)
        return self.node_of(shard.node)

    def ssd(self, node: str) -> Path:
        """Return the folder of a node's SSD tier."""
        config = self.lab.nodes.get(node)
        if config is not None and config.ssd is not None:
            return Path(self.path(config.ssd.path))
        return self.home / "ssd" if len(self.lab.nodes) == 1 else self.home / "ssd" / node

    def engine_beside(self, shard: str) -> str:
        """Return the engine that can hold a shard in VRAM: on its node, and the device that it names.

        "" if there is none.
        """
        config, node = self.lab.rag[shard], self.shard_node(shard)
        for name, engine in self.fleet.items():
            if self.node_of(engine.node) != node or config.location is Tier.NETWORK:
                continue
            place = self.engine_places.get(name)
            devices = {engine.device, place.device if place else engine.device}
            if config.device in {None, "auto"} or config.device in devices:
                return name
        return ""

    def index_dirs(self, name: str, shard: ShardConfig, node: str) -> dict[Tier, str]:
        """Return where a shard's index lies in each tier; `path` is the one in its own tier."""
        folders = {
            Tier.RAM: str(ram_folder(self.lab.name, self.home) / name),
            Tier.SSD: str(self.ssd(node) / "shards" / name / "index"),
        }
        if shard.path:
            folders[Tier.RAM if shard.location is Tier.RAM else Tier.SSD] = self.path(shard.path)
        return folders

    def origin(self, role: str) -> Origin:
        """Return what the image of a role's adapter is built from."""
        config = self.lab.roles[role]
        name, base = self.base_of(config)
        anatomy = self.anatomies.get(name)
        return Origin(
            role=role,
            lora_path=self.path(config.lora_path),
            base_path=self.path(base.model),
            max_rank=base.max_rank,
            slot_dtype=base.slot_dtype,
            shape=anatomy.shape if anatomy else None,
        )

    def where(self, actor: str) -> str:
        """Return the node that an actor of this lab is pinned to.

        An engine whose base has left the file may still run: it is where it told.
        """
        kind, _, name = actor.partition(":")
        match kind:
            case "store" | "embedder":
                return name
            case "engine":
                engine, place = self.fleet.get(name), self.engine_places.get(name)
                if engine is not None:
                    return self.node_of(engine.node)
                return place.node if place is not None else self.first_node
            case "shard":
                return self.shard_node(name)
            case "role":
                return self.role_node(name)
            case _:
                return next(iter(self.selectors), self.first_node)

    def members(self) -> dict[str, str]:
        """Return the node of every actor that the lab should have, by the actor's name."""
        shards = {name: self.shard_node(name) for name, shard in self.lab.rag.items()}
        embedders = [node for name, node in shards.items() if self.lab.rag[name].api != "http"]
        return {
            **{f"store:{node}": node for node in self.lab.nodes},
            **{f"engine:{name}": self.node_of(engine.node) for name, engine in self.fleet.items()},
            **{f"embedder:{node}": node for node in embedders},
            **{f"shard:{name}": node for name, node in shards.items()},
            **{f"role:{name}": self.role_node(name) for name in self.lab.roles},
        }
