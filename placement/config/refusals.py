"""What pydantic refuses, said with the code, the place and the words of a lab file."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pydantic import BaseModel, ValidationError

from placement.config.masking import secret_depth
from placement.config.problems import Finding, Path, nearest, quoted
from placement.config.schema import Role, Shard, fields_of
from placement.config.tree import Mapping, Node, Scalar, Sequence, locate, resolve

#: Words that people write for a field, and the word that it has here.
_OTHER_WORDS: dict[type[BaseModel], dict[str, str]] = {
    Role: {
        "tier": "location",
        "place": "location",
        "adapter": "lora_path",
        "lora": "lora_path",
        "base_model": "base",
        "system": "persona",
        "prompt": "persona",
        "shards": "rag",
    },
    Shard: {"tier": "location", "place": "location", "docs": "source", "documents": "source"},
}
_WRONG_SHAPES = {
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "tuple_type": "a list, such as [one, two]",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
}
_LIMITS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}


def refusals(
    error: ValidationError, model: type[BaseModel], tree: Node, base: Path, absent: AbstractSet[Path]
) -> Iterator[Finding]:
    """Yield what `error` says of the entry at `base`, in the words of the file; nothing of `absent` paths."""
    for one in error.errors(include_url=False):
        context = one.get("ctx", {})
        path: Path = (*base, *one["loc"], *context.get("at", ()))
        if path in absent:
            continue
        kind = one["type"]
        existing, _, node = locate(tree, path)
        if kind == "extra_forbidden":
            parent = model_at(model, one["loc"][:-1])
            yield Finding("CFG020", path, unknown_field(str(path[-1]), parent), on_key=True)
        elif kind == "missing":
            yield Finding("CFG025", existing, f"the field {path[-1]} is missing", on_key=True)
        elif kind.startswith("CFG"):
            yield Finding(kind, existing, one["msg"], offset=context.get("offset"))
        elif kind in _WRONG_SHAPES:
            yield _wrong_shape(_WRONG_SHAPES[kind], existing, node)
        elif kind == "string_too_short":
            yield Finding("CFG022", existing, "is empty; give a value, or take the line out")
        elif kind in _LIMITS or kind == "less_than_equal":
            bound = context.get("gt", context.get("ge", context.get("lt", context.get("le"))))
            yield Finding("CFG034", existing, f"must be {_LIMITS.get(kind, 'at most')} {bound:g}")
        else:
            yield Finding("CFG022", existing, one["msg"])


def unknown_field(word: str, model: type[BaseModel]) -> str:
    """Return the message for a field that `model` does not have."""
    meant = meant_field(word, model)
    if meant is None:
        return f"unknown field {quoted(word)}; one of {', '.join(fields_of(model))}"
    return f"unknown field {quoted(word)}; did you mean '{meant}'?"


def meant_field(word: str, model: type[BaseModel]) -> str | None:
    """Return the field of `model` that `word` is probably meant to be, or None if it is like none."""
    others = _OTHER_WORDS.get(model, {})
    near = nearest(word, [*fields_of(model), *others])
    return None if near is None else others.get(near, near)


def model_at(model: type[BaseModel], loc: Path) -> type[BaseModel]:
    """Return the model of the value at `loc` of a `model`."""
    for part in loc:
        model = fields_of(model).get(str(part)) or model
    return model


def _wrong_shape(wanted: str, path: Path, node: Node) -> Finding:
    secret = secret_depth(path) > 0
    if not isinstance(node, Scalar):
        shape = {Mapping: "a mapping", Sequence: "a list"}[type(node)]
        return Finding("CFG022", path, f"expected {wanted}, found {shape}")
    if node.text == "" or (node.plain and resolve(node.text) is None):
        return Finding("CFG022", path, f"is empty; expected {wanted}")
    short = node.plain and len(node.text) <= 40
    value = "another value" if secret else node.text if short else quoted(node.text)
    if wanted == "text":
        hint = f': "{node.text}"' if short and not secret else ""
        return Finding("CFG024", path, f"expected text, found {value}; quote it{hint}")
    return Finding("CFG022", path, f"expected {wanted}, found {value}")
