"""The names in a file: well formed, distinct, and every name that is used is defined."""

import re
from collections.abc import Iterable, Iterator, Mapping

from placement.config.fields import NAME
from placement.config.problems import Finding, Path, did_you_mean, quoted
from placement.config.schema import Lab
from placement.tiers import Tier

LOCAL = "local"

_ACTIVATORS = ("user", "schedule")
_ONE_WORD = {"nodes": "node", "bases": "base", "roles": "role", "rag": "shard"}

#: For each section the names that the file defines, those of broken entries too.
Declared = Mapping[str, tuple[str, ...]]


def name_faults(declared: Declared) -> Iterator[Finding]:
    """Yield names that are badly formed (CFG026), equal but for letter case (CFG027), or taken (CFG028)."""
    for section, names in declared.items():
        first: dict[str, str] = {}
        for name in names:
            path = (section, name)
            if not re.fullmatch(NAME, name):
                what = f"{_ONE_WORD[section]} name {quoted(name)}"
                yield Finding("CFG026", path, f"the {what} must match {NAME}", on_key=True)
            elif section == "roles" and name in _ACTIVATORS:
                message = f"the role name {name!r} is a word of activated_by; choose another"
                yield Finding("CFG026", path, message, on_key=True)
            elif section == "nodes" and name.lower() == Tier.NETWORK:
                message = f"the node name {name!r} is the word for what rests at an address; choose another"
                yield Finding("CFG026", path, message, on_key=True)
            other = first.setdefault(name.lower(), name)
            if other != name:
                message = f"differs from {other!r} only by letter case; choose another name"
                yield Finding("CFG027", path, message, on_key=True)
            if section == "roles" and name in declared["bases"]:
                message = f"the role has the name of the base {name!r}; requests could not tell them apart"
                yield Finding("CFG028", path, message, on_key=True)
            elif section == "rag" and name in declared["roles"]:
                message = f"the shard has the name of the role {name!r}; commands could not tell them apart"
                yield Finding("CFG028", path, message, on_key=True)


def reference_faults(lab: Lab, declared: Declared) -> Iterator[Finding]:
    """Yield names that are used but not defined (CFG030, CFG062), and circles of them (CFG036)."""
    for name, base in lab.bases.items():
        for index, node in enumerate(base.on):
            path: Path = ("bases", name, "node")
            yield from _node(node, path if isinstance(base.node, str) else (*path, index), declared)
    for section in ("roles", "rag"):
        for name, entry in getattr(lab, section).items():
            if entry.node is not None:
                yield from _node(entry.node, (section, name, "node"), declared)
    for name, role in lab.roles.items():
        path = ("roles", name)
        if role.base is not None and role.base not in declared["bases"]:
            known = declared["bases"]
            hint = _known(role.base, known, "bases") if known else "; the file lists no bases"
            yield Finding("CFG030", (*path, "base"), f"unknown base {quoted(role.base)}{hint}")
        for index, use in enumerate(role.rag):
            if use.shard not in declared["rag"]:
                hint = did_you_mean(use.shard, declared["rag"]) or "; the file defines no shards"
                yield Finding("CFG062", (*path, "rag", index), f"unknown shard {quoted(use.shard)}{hint}")
        yield from _roles(role.consults, (*path, "consults"), declared)
        yield from _roles(role.activated_by, (*path, "activated_by"), declared, _ACTIVATORS)
        yield from _roles(role.warm.after, (*path, "warm", "after"), declared)
    for name, shard in lab.rag.items():
        yield from _roles(shard.warm.after, ("rag", name, "warm", "after"), declared)
    for index, key in enumerate(lab.serve.api_keys):
        yield from _roles(key.roles, ("serve", "api_keys", index, "roles"), declared)
    yield from _circles({name: role.warm.after for name, role in lab.roles.items()}, ("warm", "after"))
    yield from _circles({name: role.consults for name, role in lab.roles.items()}, ("consults",))


def _node(node: str, path: Path, declared: Declared) -> Iterator[Finding]:
    known = declared["nodes"]
    if node in (known or (LOCAL,)):
        return
    if known:
        hint = _known(node, known, "nodes")
    else:
        hint = f"; without a section nodes there is one machine, {LOCAL!r}: list this one in nodes"
    yield Finding("CFG030", path, f"unknown node {quoted(node)}{hint}")


def _known(word: str, known: tuple[str, ...], section: str) -> str:
    hint = did_you_mean(word, known)
    return f"{hint} ({section}: {', '.join(known)})" if "?" in hint else hint


def _roles(
    names: Iterable[str], path: Path, declared: Declared, also: tuple[str, ...] = ()
) -> Iterator[Finding]:
    known = (*also, *declared["roles"])
    for index, name in enumerate(names):
        if name not in known:
            yield Finding("CFG062", (*path, index), f"unknown role {quoted(name)}{did_you_mean(name, known)}")


def _circles(edges: Mapping[str, tuple[str, ...]], field: tuple[str, ...]) -> Iterator[Finding]:
    """Yield each circle of the graph once, at the role of it that the file names first."""
    finished: set[str] = set()
    for start in edges:
        trail: dict[str, None] = {}
        stack = [(start, iter(edges[start]))] if start not in finished else []
        trail.update(dict.fromkeys([start] if stack else []))
        while stack:
            role, following = stack[-1]
            after = next(following, None)
            if after is None:
                stack.pop()
                trail.pop(role)
                finished.add(role)
            elif after in trail:
                names = list(trail)
                circle = [*names[names.index(after) :], after]
                message = f"a circle: {' -> '.join(circle)}"
                yield Finding("CFG036", ("roles", after, *field), message)
            elif after in edges and after not in finished:
                trail[after] = None
                stack.append((after, iter(edges[after])))
