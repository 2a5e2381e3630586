"""Three nodes of one Ray: raylets on this machine, and a small lab whose parts are spread over them."""

from pathlib import Path

import ray
from ray._raylet import AuthenticationTokenLoader, Config
from ray.cluster_utils import Cluster

from actors import head as heads

#: What a Ray of several machines is started with: a dead node is noticed in seconds, not in a minute.
SETTINGS = {"RAY_AUTH_MODE": "token", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", **heads.HEALTH}
STORE_NBYTES = 100 << 20

FILE = """
lab: {name}
nodes:
  desk:   {{vram: 64MiB, ram: 64MiB, ssd: {{path: {root}/desk, budget: 1GiB}}}}
  attic:  {{ram: 64MiB, ssd: {{path: {root}/attic, budget: 1GiB}}}}
  cellar: {{ram: 64MiB, ssd: {{path: {root}/cellar, budget: 1GiB}}}}
bases:
  small: {{model: {parts}/base, node: desk, device: cpu, slots: {slots}, max_rank: 8, kv_cache: 8MiB}}
roles:
  philosopher:
    {{lora_path: {parts}/philosopher, location: VRAM, persona: You think., rag: [war],
      unload: {{idle: {idle}}}, generation: {{temperature: 0, max_tokens: 12}}}}
  coder:
    {{lora_path: {parts}/coder, location: RAM, node: attic, persona: You code., unload: {{idle: {idle}}},
      generation: {{temperature: 0, max_tokens: 12}}}}
  artist:
    {{lora_path: {parts}/artist, location: SSD, node: cellar, persona: You sing., rag: [bread],
      unload: {{idle: {idle}}}, generation: {{temperature: 0, max_tokens: 12}}}}
rag:
  war: {{location: RAM, node: attic, source: {parts}/war}}
  bread: {{location: SSD, node: cellar, path: {root}/bread, source: {parts}/bread}}
"""


def write_file(root: Path, parts: Path, *, name: str, idle: str = "10min", slots: int = 3) -> Path:
    """Write the cluster.yaml of a lab: its engine on the desk, most of its roles and its shards elsewhere."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "cluster.yaml"
    path.write_text(FILE.format(name=name, root=root, parts=parts, idle=idle, slots=slots), encoding="utf-8")
    return path


class Machines:
    """The raylets of one Ray, by the node name in their label. The first one added has the GCS."""

    def __init__(self) -> None:
        Config.initialize("")  # Ray read its settings and its token when it was imported
        AuthenticationTokenLoader.instance().reset_cache()
        self._cluster = Cluster()
        self._nodes: dict[str, object] = {}

    @property
    def address(self) -> str:
        return self._cluster.address

    def add_node(self, label: str) -> None:
        """Start a raylet with the label tierce/node=`label`, and wait until Ray sees it."""
        self._nodes[label] = self._cluster.add_node(
            labels={"tierce/node": label},
            num_cpus=2,
            object_store_memory=STORE_NBYTES,
            include_dashboard=False,
            include_log_monitor=False,  # nobody reads here what is printed there
            no_monitor=True,  # nor does anything here grow or shrink by itself
        )

    def kill_raylet(self, label: str) -> None:
        """Kill -9 the raylet of a node other than the first: its actors end with it.

        It has ended on return; Ray notices some seconds later.
        """
        self._cluster.remove_node(self._nodes.pop(label), allow_graceful=False)

    def sees(self) -> set[str]:
        """Return the names of the nodes that Ray holds to be alive."""
        return {node["Labels"].get("tierce/node", "") for node in ray.nodes() if node["Alive"]}

    def shutdown(self) -> None:
        """End every process of every node."""
        self._cluster.shutdown()
