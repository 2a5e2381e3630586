"""The schema of cluster.yaml: frozen models, unknown fields forbidden, every field described."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from placement.config.fields import (
    Bytes,
    Cron,
    Device,
    Dotted,
    Dtype,
    Flag,
    Home,
    Kernels,
    Nodes,
    Number,
    Persona,
    Seconds,
    Share,
    SlotDtype,
    Text,
    Vram,
    Whole,
    one_of,
)
from placement.config.problems import Problem


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Entry(_Frozen):
    """Something that the file defines under a name."""

    name: str = Field(description="The key of the entry; not written inside it.")


class Ssd(_Frozen):
    """A directory of a node that holds items."""

    path: Text = Field(description="Directory for items, on a local disk; ~ is the home of the node's user.")
    budget: Bytes | None = Field(
        None, gt=0, description="Most bytes that items may take there; default: what is free."
    )


class Node(Entry):
    """A machine and the room that it gives to items."""

    vram: Vram | None = Field(
        None,
        description="Memory of the engines, in all or by device; without a GPU it is the CPU's.",
    )
    ram: Bytes | None = Field(None, gt=0, description="Most bytes of main memory that items may take.")
    ssd: Ssd | None = Field(None, description="Where items rest on disk.")


class Replicas(_Frozen):
    """How many engines a base may have."""

    min: Whole = Field(1, description="Engines that run, each on a device of its own.")
    max: Whole = Field(1, description="Engines at most; so far no more than min are started.")


class Base(Entry):
    """A base model, whose engine holds adapters in slots."""

    model: Text = Field(
        description="Directory or Hugging Face id of the base model; only safetensors are read."
    )
    node: Nodes | None = Field(
        None, description="The node that its engine runs on, or a list for more; default: those with VRAM."
    )
    device: Device = Field("auto", description="auto, cpu, cuda, or cuda:N.")
    dtype: Dtype = Field("auto", description="auto, float32, bfloat16, or float16.")
    slots: Whole = Field(8, gt=0, le=1024, description="Adapters that fit into the engine at the same time.")
    max_rank: Whole = Field(64, gt=0, le=1024, description="Highest LoRA rank that a slot can hold.")
    kv_cache: Bytes = Field(256 * 2**20, gt=0, description="Bytes of VRAM for the KV cache of all requests.")
    deterministic: Flag = Field(
        True, description="The same request gives the same tokens, whatever runs beside it."
    )
    kernels: Kernels = Field(
        "auto",
        description="auto: on a CPU the fastest library kernels; torch: logits equal PEFT's to the bit.",
    )
    slot_dtype: SlotDtype = Field(
        "float32", description="float32, or bfloat16: rounded, half the bytes but in the VRAM of a CPU."
    )
    threads: Whole = Field(1, gt=0, le=1024, description="Threads that a CPU engine computes with.")
    replicas: Replicas = Field(Replicas(), description="How many engines of this base may run.")

    @property
    def on(self) -> tuple[str, ...]:
        """The nodes that the file names for its engines."""
        return (self.node,) if isinstance(self.node, str) else self.node or ()


class RagUse(_Frozen):
    """A shard that a role reads."""

    shard: Text = Field(description="Name of a shard of the section rag.")
    top_k: Whole = Field(4, gt=0, le=1000, description="Passages to take from it for one question.")
    required: Flag = Field(
        True, description="true: the ask fails when the shard cannot answer; false: goes on."
    )


class Warm(_Frozen):
    """When an item is brought up ahead of need."""

    after: tuple[Text, ...] = Field((), description="Roles after whose asks it is brought up.")
    at_start: Flag = Field(False, description="Bring it up when the lab starts.")
    at: Cron | None = Field(None, description='Schedule of five fields, such as "0 9 * * 1-5".')


class Unload(_Frozen):
    """When an item leaves the tier it was brought up to, and where it goes."""

    idle_s: Seconds = Field(600.0, alias="idle", gt=0, description="Time without an ask, such as 10min.")
    to: Home | None = Field(None, description="The tier it goes to, its home or below; default: its home.")
    at: Cron | None = Field(
        None, description='Schedule at which it goes whenever it was last asked, such as "0 20 * * *".'
    )


class Generation(_Frozen):
    """How the tokens of an answer are drawn, where the request does not say."""

    temperature: Number = Field(0.7, ge=0, le=2, description="0 always takes the likeliest token.")
    max_tokens: Whole = Field(200, gt=0, le=1_000_000, description="Most tokens of an answer.")
    top_p: Number = Field(
        1.0, gt=0, le=1, description="Draw only from the likeliest tokens of this total share."
    )
    top_k: Whole = Field(0, ge=0, description="Draw only from so many of the likeliest tokens; 0: from all.")
    min_p: Number = Field(
        0.0,
        ge=0,
        le=1,
        description="Draw only tokens at least so likely beside the likeliest; 0: all.",
    )
    repetition_penalty: Number = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Over 1: tokens of prompt and answer are less likely to come again.",
    )
    seed: Whole | None = Field(
        None, ge=0, lt=2**63, description="Seed of the draw; the same seed, the same answer."
    )
    stop: tuple[Text, ...] = Field((), description="Texts that end the answer and are not part of it.")


def _rag_use(value: object) -> object:
    return {"shard": value} if isinstance(value, str) else value


class Role(Entry):
    """A LoRA adapter and a persona on a shared base model."""

    base: Text | None = Field(
        None, description="A name of the section bases; may be left out if there is one."
    )
    lora_path: Text = Field(description="Directory, Hugging Face id or URL of the adapter; it is only read.")
    location: Home = Field(description="The tier where the adapter rests: VRAM, RAM, SSD (or disk), network.")
    node: Text | None = Field(None, description="The node where it rests; default: the node of its base.")
    device: Device | None = Field(
        None, description="VRAM only: the device where it rests; it is that of its base."
    )
    description: str = Field("", description="What the role is for, in a sentence for people.")
    persona: Persona = Field("", description="The system prompt of the role.")
    persona_file: Text | None = Field(None, description="A text file that holds the persona instead.")
    rag: tuple[Annotated[RagUse, BeforeValidator(_rag_use)], ...] = Field(
        (), description="Shards that it reads: a name, or {shard, top_k, required}."
    )
    consults: tuple[Text, ...] = Field((), description="Roles that it may ask.")
    activated_by: tuple[Text, ...] = Field(
        ("user",),
        description="Who may activate it: user, schedule, or roles; default: user, and its own schedule.",
    )
    warm: Warm = Field(Warm(), description="When it is brought up ahead of need.")
    unload: Unload = Field(Unload(), description="When it is unloaded, and where to.")
    pin: Flag = Field(False, description="true: it never leaves its home.")
    generation: Generation = Field(Generation(), description="How its answers are drawn.")


class HttpMap(_Frozen):
    """The names that a foreign server uses for what Tierce needs."""

    query: Text = Field("query", description="http only: the field of the request that carries the question.")
    top_k: Text | None = Field(
        None, description="http only: the field of the request that says how many passages to return."
    )
    results: Dotted = Field(
        "results", description='http only: where the answer has its list, such as data.hits; ".": it is one.'
    )
    text: Text = Field("text", description="The field of a result that carries the passage.")
    score: Text = Field("score", description="http only: the field of a result that carries its score.")
    document: Text | None = Field(
        None, description="The field of a result that names the document; default: none is named."
    )
    vector: Text | None = Field(
        None, description="qdrant only: the named vector to search; default: the unnamed one."
    )


class Shard(Entry):
    """A part of the documents, with an index of its own."""

    location: Home = Field(description="The tier where the index rests: VRAM, RAM, SSD (or disk), network.")
    node: Text | None = Field(None, description="The node where it rests; not for network.")
    path: Text | None = Field(None, description="Directory of the index; default: below the node's ssd path.")
    source: Text | None = Field(None, description="Directory or file of documents that it is built from.")
    url: Text | None = Field(None, description="network only: address of the server.")
    collection: Text | None = Field(None, description="network only: the collection of the Qdrant server.")
    api_key: SecretStr | None = Field(
        None, description='network only: the key of the server, best as "${NAME}".'
    )
    api: Annotated[Literal["qdrant", "http"], one_of("api", ("qdrant", "http"))] = Field(
        "qdrant", description="network only: qdrant, or http for any search API."
    )
    map: HttpMap | None = Field(None, description="network only: the field names of the foreign server.")
    device: Device | None = Field(None, description="VRAM only: the device whose engine holds it.")
    pin: Flag = Field(False, description="true: it never leaves its home.")
    tenant_key: Text | None = Field(None, description="Field of the documents that keeps tenants apart.")
    warm: Warm = Field(Warm(), description="When it is brought up ahead of need.")
    unload: Unload = Field(Unload(), description="When it is unloaded, and where to.")


class Score(_Frozen):
    """What makes an item worth its place."""

    frequency: Number = Field(
        0.45, ge=0, description="Weight (an exponent) of how likely it is asked for soon."
    )
    recency: Number = Field(0.10, ge=0, description="Weight of how little overdue it is.")
    cost: Number = Field(0.45, ge=0, description="Weight of how long it takes to bring back.")


class Policy(_Frozen):
    """When things move by themselves."""

    vram_high: Share = Field(0.92, gt=0, description="Above this share of VRAM, items are demoted.")
    vram_low: Share = Field(0.85, gt=0, description="Demoting goes on down to this share of VRAM.")
    ram_high: Share = Field(0.95, gt=0, description="Above this share of main memory, items are demoted.")
    ram_low: Share = Field(0.90, gt=0, description="Demoting goes on down to this share of main memory.")
    ssd_high: Share = Field(0.97, gt=0, description="Above this share of the disk, copies are dropped.")
    ssd_low: Share = Field(0.95, gt=0, description="Dropping goes on down to this share of the disk.")
    warm_ahead: Flag = Field(
        True,
        description="Bring up ahead of need whom habits tell; keep in spare memory what is asked for.",
    )
    want_deadline_s: Seconds = Field(
        30.0, alias="want_deadline", gt=0, description="How long an ask waits for an item to come up."
    )
    lease_s: Seconds = Field(
        60.0, alias="lease", gt=0, description="How long a silent request may hold an item."
    )
    score: Score = Field(Score(), description="The weights by which items are chosen to be demoted.")


class ApiKey(_Frozen):
    """A key of the HTTP door; the file holds its hash and never the key."""

    name: Text = Field(description="Who holds the key; shown in logs.")
    hash: SecretStr = Field(description="Hash of the key.")
    scope: Annotated[Literal["inference", "admin"], one_of("scope", ("inference", "admin"))] = Field(
        "inference", description="inference: ask; admin: also move, load and unload."
    )
    roles: tuple[Text, ...] = Field((), description="Roles that the key may ask; default: all.")


class Serve(_Frozen):
    """The HTTP door of the lab."""

    host: Text = Field(
        "127.0.0.1", description="Address to listen on; other than this machine needs api_keys."
    )
    port: Whole = Field(8000, ge=1, le=65535, description="Port to listen on.")
    api_keys: tuple[ApiKey, ...] = Field((), description="Who may come in; default: anybody on this machine.")
    auto_route: Flag = Field(
        False, description="Choose the role by its description when a request names none."
    )


class Lab(_Frozen):
    """What one cluster.yaml describes. Made by `load`; names that depend on others are filled in."""

    name: Text = Field("lab", alias="lab", description="Name of the lab, and its namespace in Ray.")
    nodes: dict[str, Node] = Field(
        {}, description="The machines; left out on one machine, which is then `local`."
    )
    bases: dict[str, Base] = Field({}, description="The base models; left out, the adapters say which.")
    roles: dict[str, Role] = Field(
        {}, description="The roles: who answers, with which adapter, and where it rests."
    )
    rag: dict[str, Shard] = Field({}, description="The shards: which documents, and where their index rests.")
    policy: Policy = Field(Policy(), description="When things move by themselves.")
    serve: Serve = Field(Serve(), description="The HTTP door.")
    root: str = Field(".", description="Not of the file: the directory that its relative paths start from.")
    warnings: tuple[Problem, ...] = Field((), description="Not of the file: what `check` warns of.")


#: The sections of a file whose keys are names of entries.
ENTRIES: dict[str, type[Entry]] = {"nodes": Node, "bases": Base, "roles": Role, "rag": Shard}


def fields_of(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Return the fields that a file may write in `model`, each with the model of its value if it has one."""
    unwritten = {Entry: ("name",), Lab: ("root", "warnings")}.get(
        Entry if issubclass(model, Entry) else model, ()
    )
    fields = {}
    for name, field in model.model_fields.items():
        if name not in unwritten:
            fields[field.alias or name] = next(_models(field.annotation), None)
    return fields


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)
